"""Frozen code: named by content, with the user's modules, and what Python then imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.launch import snapshot
from bench.launch.snapshot import environment, freeze
from bench.provenance import git_state
from bench.public_names import targets_of


def test_targets_are_found_at_any_depth() -> None:
    component = {
        "_target_": "a.B",
        "params": {"_target_": "c.d"},
        "list": [{"_target_": "e.F"}],
        "x": 1,
    }
    assert sorted(targets_of(component)) == ["a.B", "c.d", "e.F"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "my_own_module.py"
    file.write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return file


def test_modules_that_were_found_before_are_found_after_the_snapshot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/site/one:/two")
    assert environment(Path("/code"))["PYTHONPATH"] == "/code:/site/one:/two"
    monkeypatch.delenv("PYTHONPATH")
    assert environment(Path("/code"))["PYTHONPATH"] == "/code"


def test_a_snapshot_is_what_runs_even_in_the_tree_itself(tmp_path: Path, own: Path) -> None:
    runs = tmp_path / "runs"
    code = freeze(
        runs, ["my_own_module.Thing", "torch.optim.SGD", "optimizers.Muon", "builtins.int"]
    )
    assert freeze(runs, ["my_own_module.Thing"]) == code  # the same content: the same snapshot
    names = {path.name for path in code.iterdir()}
    assert names >= {"bench", "optimizers", "analysis", "hydra_plugins", "conf", "sweeps"}
    assert "my_own_module.py" in names
    assert "torch" not in names
    assert git_state(code) == json.loads((code / "snapshot.json").read_text())
    (tmp_path / "my_folder").mkdir()  # a package without __init__.py
    for name in ("part.py", "part.pyc", ".part.py.swp"):
        (tmp_path / "my_folder" / name).touch()
    kept = (freeze(runs, ["my_folder.part.Thing"]) / "my_folder").iterdir()
    assert [path.name for path in kept] == ["part.py"]
    if git_state(code)["commit"] is not None:
        site = Path(snapshot.__file__).parent
        diff = subprocess.run(["git", "diff", "HEAD"], cwd=site, capture_output=True, check=True)
        assert (code / "code.diff").read_bytes() == diff.stdout
    own.write_text("VALUE = 2\n")
    probe = "import my_own_module, bench.files; print(my_own_module.VALUE, bench.files.conf_dir())"
    done = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=tmp_path,
        env={**os.environ, **environment(code)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", str(code / "conf")]
    assert freeze(runs, ["my_own_module.Thing"]) != code
    assert [path for path in code.parent.iterdir() if path.name.startswith(".")] == []
