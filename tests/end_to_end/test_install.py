"""A plain, non-editable installation carries its configs and sweeps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[2]


def test_plain_install_works_from_any_folder(tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(CHECKOUT)], check=True, capture_output=True, timeout=300)

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = python("-c", "import bench.files; print(bench.__file__, bench.files.home())").split()
    assert all(Path(path).is_relative_to(site) for path in where)
    assert "sweep: digits" in python("-m", "bench.train", "+sweeps=digits", "--cfg", "job")
    line = python("-m", "bench.train", "trainer=debug", "model=mlp", "tracker=none")
    assert ": done, test accuracy" in line
