from __future__ import annotations

from typing import Any

import pytest

from analysis.run.differences import differences
from analysis.run.frame import RunRecord, frame

NAMES = ("runs", "wandb:lab/p")


def run(runs: Any, seed: int, state: str = "done", accuracy: float = 0.5) -> RunRecord:
    return RunRecord(f"r{seed}", state, runs.config(seed=seed), runs.summary(accuracy, state))


def test_what_only_one_has_and_what_they_tell_differently(runs: Any) -> None:
    ours = [run(runs, 0), run(runs, 1), run(runs, 2, "diverged"), run(runs, 3, accuracy=0.25)]
    theirs = [run(runs, 0), run(runs, 2, "running"), run(runs, 3), run(runs, 4, "failed")]
    found = differences(frame(ours), frame(theirs), names=NAMES, metric="test/accuracy")
    assert found == [
        "only in runs: r1 (done)",
        "only in wandb:lab/p: r4 (failed)",
        "r2: state diverged in runs, running in wandb:lab/p",
        "r2: test/accuracy 0.5 in runs, nan in wandb:lab/p",
        "r3: test/accuracy 0.25 in runs, 0.5 in wandb:lab/p",
    ]


@pytest.mark.parametrize("metric", ["test/accuracy", "unknown"])
def test_the_same_runs_differ_in_nothing(runs: Any, metric: str) -> None:
    same = frame([run(runs, 0), run(runs, 1, "running")])
    assert differences(same, same, names=NAMES, metric=metric) == []
