from __future__ import annotations

import math
from typing import Any

import pytest

from analysis.run.frame import RunRecord, frame
from analysis.table.build import Table, build_table
from analysis.table.render import render
from analysis.table.target import is_target


def table(runs: Any, times: list[float | None], states: dict[int, str] | None = None) -> Table:
    """A table of target/seconds of one optimizer; each run trained for 100 seconds in all."""
    records = []
    for seed, time in enumerate(times):
        state = (states or {}).get(seed, "done")
        summary = {"state": state, "target/reached": time is not None, "target/seconds": time,
                   "clock/data_seconds": 20.0, "clock/step_seconds": 80.0}  # fmt: skip
        records.append(RunRecord(f"r{seed}", state, runs.config(seed=seed), summary))
    return build_table(frame(records), metric="target/seconds")


def test_misses_are_censored_never_left_out(runs: Any) -> None:
    ((cell,),) = table(runs, [10.0, 12.0, None, 50.0, None]).cells
    assert (cell.mean, cell.reached, cell.n, cell.expected) == (50.0, 3, 5, 5)
    text = render(table(runs, [10.0, 12.0, None, 50.0, None]), "markdown")
    assert "| 50.0000 (3 of 5/5) |" in text
    assert "5 of 5 runs used." in text


def test_a_target_that_most_or_all_missed(runs: Any) -> None:
    for times in ([1.0, None, None], [None, None, None]):
        shown = table(runs, times)
        assert math.isinf(shown.cells[0][0].mean)
        assert f"| missed ({sum(t is not None for t in times)} of 3/3) |" in render(
            shown, "markdown"
        )
        assert not shown.cells[0][0].best


def test_a_diverged_run_never_gets_there(runs: Any) -> None:
    ((cell,),) = table(runs, [10.0, 20.0, None, None], {2: "diverged", 3: "running"}).cells
    assert (cell.mean, cell.reached, cell.n, cell.diverged) == (20.0, 2, 3, 1)


def test_verdicts_on_misses_are_refused(runs: Any) -> None:
    done = RunRecord("r", "done", runs.config(), {"target/reached": False})
    with pytest.raises(ValueError, match="a run that missed has no number to pair"):
        build_table(frame([done]), metric="target/seconds", baseline="adamw")


def test_names_of_what_it_took() -> None:
    assert all(map(is_target, ("target/seconds", "target/step", "target/epoch", "target/flops")))
    assert not any(map(is_target, ("target/reached", "target/value", "seconds", "test/loss")))


def test_a_diverged_run_counts_as_never_whatever_it_did_before(runs: Any) -> None:
    """Censored where it ended it would leave early, and its early arrival is not a result."""
    records = []
    for seed, (state, time) in enumerate(
        [("done", 10.0), ("done", 20.0), ("diverged", None), ("diverged", 5.0)]
    ):
        spent = 1.0 if state == "diverged" else 100.0
        summary = {"state": state, "target/reached": time is not None, "target/seconds": time,
                   "clock/data_seconds": 0.0, "clock/step_seconds": spent}  # fmt: skip
        records.append(RunRecord(f"r{seed}", state, runs.config(seed=seed), summary))
    ((cell,),) = build_table(frame(records), metric="target/seconds").cells
    assert (cell.mean, cell.reached, cell.n) == (20.0, 2, 4)
