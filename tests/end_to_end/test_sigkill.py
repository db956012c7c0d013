"""A run killed at random moments ends with the bits of a run that was left alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from analysis.runs import load_history, load_runs

pytestmark = pytest.mark.slow

OPTIONS = ["optimizer=muon", "trainer.epochs=40", "trainer.threads=1", "dataset.pad=1"]
OPTIONS += ["trainer.evaluate_every=9"]


def only_run(runs: Path) -> Path:
    folders = [path.parent for path in runs.glob("*/config.json")]
    assert len(folders) == 1
    return folders[0]


def assert_same(left: object, right: object, where: str = "checkpoint") -> None:
    if isinstance(left, torch.Tensor):
        assert isinstance(right, torch.Tensor), where
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert isinstance(right, dict), where
        assert left.keys() == right.keys(), where
        for key in left:
            if key not in ("clock", "seconds", "energy", "joules"):  # measured, so they differ
                assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list):
        assert isinstance(right, list), where
        assert len(left) == len(right), where
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    else:
        assert left == right, where


def test_killed_run_ends_bit_identical(command, tmp_path: Path) -> None:
    whole = command("bench.train", *OPTIONS, "runs_dir=whole")
    assert whole.run().returncode == 0
    broken = command("bench.train", *OPTIONS, "runs_dir=broken", "trainer.checkpoint_every=7")
    times = random.Random(0)
    kills = sum(broken.killed_after(times.uniform(3.0, 7.0)) for _ in range(6))
    final = broken.run()
    assert final.returncode == 0, final.stderr
    assert kills >= 2, "the run was too short to be killed"

    one, two = only_run(tmp_path / "whole"), only_run(tmp_path / "broken")
    assert one.name == two.name
    assert (one / "history.jsonl").read_bytes() == (two / "history.jsonl").read_bytes()
    assert_same(
        torch.load(one / "checkpoint.pt", weights_only=True),
        torch.load(two / "checkpoint.pt", weights_only=True),
    )
    assert list(two.glob(".*.tmp")) == []

    # W&B tells the same story: one run, every step once.
    offline = load_runs(f"offline:{tmp_path / 'broken'}")
    assert list(offline["id"]) == [two.name]
    rows = load_history(f"offline:{tmp_path / 'broken'}", two.name)
    assert list(rows["step"]) == sorted(set(rows["step"]))
    assert list(rows["step"]) == list(load_history(str(tmp_path / "broken"), two.name)["step"])
