"""A registered study from the command line to its table; and with a seed added afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SWEEP = """
# @package _global_
defaults:
  - override /model: mlp
  - override /tracker: none
sweep: study_own
trainer: {epochs: 2, batch_size: 256, progress: none, device: cpu, threads: 1, accounting: false}
model: {hidden: [8]}
study:
  registered: {outcome: test/loss, primary: [[adamw, sgd]], margin: 0.01}
  tuning:
    trials: 2
    extension: 0
    seeds: [1000]
    method: grid
    space:
      sgd: {optimizer.lr: {low: 0.1, high: 0.2}}
      adamw: {optimizer.lr: {low: 0.01, high: 0.1}}
hydra:
  mode: MULTIRUN
  sweeper: {params: {optimizer: "sgd,adamw", seed: "range(0,6)"}}
"""


def test_a_registered_study_and_a_seed_afterwards(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    def done(*words: str) -> str:
        finished = command("bench.main", *words).run()
        assert finished.returncode == 0, finished.stderr
        return str(finished.stdout)

    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "study_own.yaml").write_text(SWEEP)
    own = ["+sweeps=study_own", f"hydra.searchpath=[file://{tmp_path}]"]
    assert "next: git add sweeps/registered/study_own.json" in done("study", "register", *own)
    told = done("study", *own, "tuned=settings")
    assert "; registered, primary." in told
    assert "found afterwards" not in told
    assert "planned runs: 12 of 12 finished" in done("study", "status", *own)

    table = ["tables", "source=runs", "sweep=study_own", "metric=test/loss", "baseline=sgd"]
    done("archive", "source=runs", "sweeps=study_own", "out=own.parquet")
    archived = done(*table[:1], "source=own.parquet", *table[2:])
    assert archived == done(*table)
    assert "; registered, primary." in archived

    done("train", "-m", *own, "tuned=settings", "seed=6")
    told = done(*table)
    assert "found afterwards: seed 6 was not registered." in told
    assert "; registered, primary." not in told
    assert "seeds outside the registration: 6" in done("study", "status", *own)
