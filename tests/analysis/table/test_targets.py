"""Times to a target: censored misses, what is withheld, other targets than the runs' own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.run.frame import RunRecord, frame
from analysis.table.build import build_table
from analysis.table.model import Table
from analysis.table.render import render
from analysis.table.targets import TargetTime, is_target, time_to_target
from bench.training.target import Target


def test_the_median_time_without_misses_is_the_lower_median() -> None:
    assert time_to_target([3.0, 1.0, 2.0], [9.0] * 3) == TargetTime(2.0, 3, 3)
    assert time_to_target([1.0, 2.0, 3.0, 4.0], [9.0] * 4) == TargetTime(2.0, 4, 4)


@pytest.mark.parametrize("miss", [None, math.nan, math.inf])
def test_a_miss_is_censored_not_left_out(miss: float | None) -> None:
    """Without the misses the median would be 1.0: a flattering number."""
    assert time_to_target([1.0, 1.0, 5.0, miss, miss], [10.0] * 5) == TargetTime(5.0, 3, 5)
    assert time_to_target([1.0, miss, miss], [10.0] * 3) == TargetTime(math.inf, 1, 3)
    # Censored early, it stands for runs that go on: S = 1 - 1/2 at 4, after one left at 2.
    assert time_to_target([miss, 4.0, 6.0], [2.0, 9.0, 9.0]) == TargetTime(4.0, 2, 3)
    # A miss censored at the very time at which another got there was still on its way.
    assert time_to_target([miss, 2.0], [2.0, 9.0]) == TargetTime(2.0, 1, 2)


def test_kaplan_meier_against_scipy() -> None:
    from scipy import stats as scipy_stats

    rng = np.random.default_rng(0)
    for _ in range(30):
        times, limit = rng.exponential(size=9), rng.exponential(1.5, size=9)
        missed = times > limit
        data = scipy_stats.CensoredData.right_censored(np.minimum(times, limit), missed)
        reference = scipy_stats.ecdf(data).sf
        below = reference.quantiles[reference.probabilities <= 0.5 + 1e-12]
        given_times = [None if m else float(t) for t, m in zip(times, missed, strict=True)]
        found = time_to_target(given_times, limit.tolist())
        assert found.median == (below[0] if len(below) else math.inf)
        assert found.reached == 9 - missed.sum()


def test_runs_that_say_too_little_are_refused() -> None:
    with pytest.raises(ValueError, match="each run: 0, 0"):
        time_to_target([], [])
    with pytest.raises(ValueError, match="each run: 1, 2"):
        time_to_target([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="the time that it spent"):
        time_to_target([None], [math.nan])


def record(
    runs: Any, seed: int, time: float | None, state: str = "done", **config: Any
) -> RunRecord:
    """A run that trained for 100 seconds in all."""
    summary = {"state": state, "target/reached": time is not None, "target/seconds": time,
               "clock/data_seconds": 20.0, "clock/step_seconds": 80.0}  # fmt: skip
    name = config.get("optimizer", "adamw")
    return RunRecord(f"{name}-{seed}", state, runs.config(seed=seed, **config), summary)


def table(runs: Any, times: list[float | None], states: dict[int, str] | None = None) -> Table:
    """A table of target/seconds of one optimizer."""
    states = states or {}
    records = [record(runs, i, time, states.get(i, "done")) for i, time in enumerate(times)]
    return build_table(frame(records), metric="target/seconds")


def test_misses_are_censored_never_left_out(runs: Any) -> None:
    ((cell,),) = table(runs, [10.0, 12.0, None, 50.0, None]).cells
    assert (cell.mean, cell.reached, cell.n, cell.expected) == (50.0, 3, 5, 5)
    text = render(table(runs, [10.0, 12.0, None, 50.0, None]), "markdown")
    assert "| 50.0000 (3 of 5/5) |" in text
    assert "5 of 5 runs used." in text


def test_a_row_that_mostly_missed(runs: Any) -> None:
    records = [
        record(runs, seed, time, optimizer=optimizer)
        for optimizer, times in (("adamw", [1.0, 2.0, None]), ("muon", [1.0, None, None]))
        for seed, time in enumerate(times)
    ]
    shown = build_table(frame(records), metric="target/seconds")
    assert [line[0].mean for line in shown.cells] == [2.0, math.inf]
    assert "| missed (1 of 3/3) |" in render(shown, "markdown")
    assert [line[0].best for line in shown.cells] == [True, False]


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
