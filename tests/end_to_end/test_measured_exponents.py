"""The way of an exponent: a run is trained, measured, and the next run trains by its alphas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from optimizers.exponents import read_exponents

pytestmark = pytest.mark.slow

FALLBACK = 1.5
SMALL = ["model.width=4", "trainer.threads=1", "trainer.progress=none", "tracker=none"]


def command(module: str, *words: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_measured_run_gives_its_alphas_to_the_next(tmp_path: Path) -> None:
    command("bench.train", "optimizer=adamw", "trainer.epochs=4", *SMALL, cwd=tmp_path)
    (folder,) = (tmp_path / "runs").glob("*adamw*")
    command("analysis.curvature", f"run={folder}", cwd=tmp_path)
    file = folder / "exponents.parquet"
    measured = read_exponents(file)
    words = ["optimizer=spectral_newton_measured", f"optimizer.fallback_alpha={FALLBACK}"]
    words += [f"exponents={file}", "trainer.epochs=2", *SMALL]
    output = command("bench.train", *words, cwd=tmp_path)

    (other,) = (tmp_path / "runs").glob("*spectral_newton*")
    assert json.loads((other / "summary.json").read_text())["state"] == "done"
    checkpoint = torch.load(other / "checkpoint.pt", weights_only=True)
    (group,) = (
        each for each in checkpoint["optimizer"]["param_groups"] if each["algorithm"] == "matrix"
    )
    alphas = dict(zip(group["param_names"], group["alphas"], strict=True))
    assert set(alphas) == {"conv1.weight", "conv2.weight", "conv3.weight"}
    unreliable = []
    for name, alpha in alphas.items():
        layer = measured[name.removesuffix(".weight")]
        usable = layer.reliable and layer.alpha > 0
        assert alpha == (layer.alpha if usable else FALLBACK)
        unreliable += [] if usable else [name]
    # Four singular values make no reliable slope; that is said, once.
    assert "conv1.weight" in unreliable
    assert len(unreliable) < 3
    said = f"for {len(unreliable)} of 3 matrices, which use fallback_alpha={FALLBACK}: "
    assert output.count(said + ", ".join(unreliable)) == 1
    assert output.count("fallback_alpha") == 1
