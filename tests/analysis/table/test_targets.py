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
        build_table(frame([done]), metric="target/seconds", baseline=("adamw",))


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


# -- what is withheld -----------------------------------------------------------------------------


def arrived(
    runs: Any, seed: int, step: float | None, *, interpolated: bool = True, **config: Any
) -> RunRecord:
    """A run of 100 steps with an evaluation every 10; None missed the target."""
    there = step is not None
    summary = {"state": "done", "steps": 100, "epochs": 5.0, "target/reached": there,
               "target/metric": "val/loss", "target/value": 1.2, "target/step": step,
               "target/epoch": step / 20 if there else None,
               "target/interpolated": interpolated if there else None,
               "target/resolution": 10 if there else None}  # fmt: skip
    name = config.get("optimizer", "adamw")
    return RunRecord(f"{name}-{seed}", "done", runs.config(seed=seed, **config), summary)


def of_steps(records: list[RunRecord]) -> Table:
    return build_table(frame(records), metric="target/step")


def test_a_target_that_most_reach_at_once_has_no_resolution(runs: Any) -> None:
    first = [arrived(runs, seed, 10.0, interpolated=False) for seed in range(3)]
    later = [arrived(runs, seed, 44.0) for seed in range(3, 6)]
    assert of_steps([*first, *later]).cells[0][0].mean == 10.0  # half is not more than half
    shown = of_steps([*first, *later[:2]])
    ((cell,),) = shown.cells
    assert math.isnan(cell.mean)
    assert (cell.reached, cell.n) == (5, 5)
    reason = "3 of 5 runs reach val/loss 1.2 at their first evaluation: no resolution"
    assert f"target/step of digits/convnet withheld: {reason}." in shown.notes
    assert "| – (5 of 5/5) |" in render(shown, "markdown")
    assert ",target/step,,," in render(shown, "csv")


def test_a_target_that_fewer_than_half_reach(runs: Any) -> None:
    times = [30.0, 40.0, None, None]
    assert of_steps([arrived(runs, i, t) for i, t in enumerate(times)]).cells[0][0].mean == 40.0
    shown = of_steps([arrived(runs, i, t) for i, t in enumerate([*times, None])])
    assert math.isnan(shown.cells[0][0].mean)
    assert any("2 of 5 runs reach val/loss 1.2: fewer than half." in note for note in shown.notes)


def test_the_whole_column_decides_and_others_stay(runs: Any) -> None:
    """A row that is there at once is shown where most others are not; so is another dataset."""
    records = [
        arrived(runs, seed, step, interpolated=step != 10.0, optimizer=name, dataset__classes=2)
        for name, step in (("adamw", 30.0), ("muon", 10.0), ("sgd", 50.0))
        for seed in range(2)
    ]
    assert [line[0].mean for line in of_steps(records).cells] == [30.0, 10.0, 50.0]


def test_runs_from_before_interpolation_count_by_whole_epochs(runs: Any) -> None:
    def old(seed: int, epoch: float) -> RunRecord:
        one = arrived(runs, seed, 20 * epoch)
        lacking = ("target/interpolated", "target/resolution")
        kept = {k: v for k, v in one.summary.items() if k not in lacking}
        return RunRecord(one.id, "done", one.config, kept)

    shown = of_steps([old(0, 1.0), old(1, 2.0), arrived(runs, 2, 33.0)])
    assert shown.cells[0][0].mean == 33.0
    note = (
        "Target of digits/convnet: val/loss 1.2, interpolated between evaluations 10 steps apart,"
        " 2 of 3 arrivals at the end of an epoch."
    )
    assert note in shown.notes
    assert math.isnan(of_steps([old(0, 1.0), old(1, 1.0), old(2, 2.0)]).cells[0][0].mean)


def test_a_run_that_did_not_count_what_it_took_is_left_out(runs: Any) -> None:
    one = arrived(runs, 0, 30.0)
    records = [RunRecord(one.id, "done", one.config, {**one.summary, "target/flops": None})]
    other = arrived(runs, 1, 40.0)
    counted = {**other.summary, "target/flops": 4e9, "flops/total": 1e10}
    records.append(RunRecord(other.id, "done", other.config, counted))
    ((cell,),) = build_table(frame(records), metric="target/flops").cells
    assert (cell.mean, cell.n, cell.reached) == (4e9, 1, 1)


# -- other targets, from histories ----------------------------------------------------------------

CURVES = st.lists(st.floats(0.05, 0.95), min_size=4, max_size=4)


def trained(
    runs: Any, seed: int, curve: Sequence[float], name: str = "val/accuracy", every: int = 20,
    **config: Any,
) -> tuple[RunRecord, pd.DataFrame]:  # fmt: skip
    """A run of as many evaluations as ``curve`` has values, and its history; 0.1 s a step."""
    steps = every * np.arange(1, len(curve) + 1)
    whole = int(steps[-1])
    summary = {"state": "done", "steps": whole, "epochs": whole / 20, "target/reached": False,
               "clock/data_seconds": 0.0, "clock/step_seconds": 0.1 * whole}  # fmt: skip
    label = config.get("optimizer", "adamw")
    found = RunRecord(f"{label}-{seed}", "done", runs.config(seed=seed, **config), summary)
    rows = {"step": steps, "epoch": steps / 20, name: np.array(curve, dtype=np.float64)}
    return found, pd.DataFrame(rows)


def of_target(
    made: list[tuple[RunRecord, pd.DataFrame]], target: Any, metric: str = "target/step",
    **more: Any,
) -> Table:  # fmt: skip
    histories = {record.id: history for record, history in made}
    records = [record for record, _ in made]
    return build_table(
        frame(records), metric=metric, target=target, histories=histories.__getitem__, **more
    )


def crossing(steps: Any, curve: Sequence[float], value: float) -> float | None:
    """Where the piecewise linear curve is first at ``value``, by NumPy."""
    above = [i for i, y in enumerate(curve) if y >= value]
    if not above or not above[0]:
        return float(steps[0]) if above else None
    piece = slice(above[0] - 1, above[0] + 1)
    return float(np.interp(value, list(curve)[piece], list(steps)[piece]))


@given(st.lists(CURVES, min_size=1, max_size=7), st.floats(0.1, 0.9))
@settings(max_examples=60, deadline=None)
def test_any_target_against_numpy_and_scipy(runs: Any, curves: list[Any], value: float) -> None:
    from scipy import stats as scipy_stats

    made = [trained(runs, seed, curve) for seed, curve in enumerate(curves)]
    target = Target(metric="val/accuracy", value=value)
    ((cell,),) = of_target(made, target).cells
    steps = [20.0, 40.0, 60.0, 80.0]
    times = [crossing(steps, curve, value) for curve in curves]
    there = [time for time in times if time is not None]
    first = sum(curve[0] >= value for curve in curves)
    assert (cell.n, cell.reached) == (len(curves), len(there))
    if 2 * first > len(curves) or 2 * len(there) < len(curves):
        assert math.isnan(cell.mean)
        return
    data = scipy_stats.CensoredData.right_censored(
        [80.0 if time is None else time for time in times], [time is None for time in times]
    )
    survival = scipy_stats.ecdf(data).sf
    below = survival.quantiles[survival.probabilities <= 0.5 + 1e-12]
    assert cell.mean == pytest.approx(below[0] if len(below) else math.inf)
    ((seconds,),) = of_target(made, target, "target/seconds").cells
    assert seconds.mean == pytest.approx(0.1 * cell.mean)


def test_the_default_target_is_the_baselines_own_median(runs: Any) -> None:
    curves = {"adamw": [[0.2, 0.5, 0.6], [0.1, 0.5, 0.8], [0.3, 0.5, 0.7]],
              "muon": [[0.2, 0.9, 0.9]] * 3}  # fmt: skip
    made = [
        trained(runs, seed, curve, optimizer=name)
        for name, each in curves.items() for seed, curve in enumerate(each)
    ]  # fmt: skip
    shown = of_target(made, "auto", baseline=("adamw",))
    assert not shown.baselines  # no verdicts: a miss has no number to pair
    # 0.7 is missed by one run of adamw, between 40 and 60 steps for another, at 60 for the last.
    assert [(c.mean, c.reached) for (c,) in shown.cells] == [
        (60.0, 2), (pytest.approx(20 + 20 * 5 / 7), 3)
    ]  # fmt: skip
    note = (
        "Target of digits/convnet: val/accuracy 0.7, interpolated between evaluations 20 steps"
        " apart; the median final value of adamw, 3 runs."
    )
    assert note in shown.notes


def test_a_language_model_is_judged_by_its_loss(runs: Any) -> None:
    made = [trained(runs, seed, [3.0, 2.0, 1.0], "val/loss") for seed in range(3)]
    spoken = [
        (RunRecord(r.id, "done", r.config, {**r.summary, "tokens_per_second": 9.0}), history)
        for r, history in made
    ]
    ((cell,),) = of_target(spoken, "auto", baseline=("adamw",)).cells
    assert (cell.mean, cell.reached) == (60.0, 3)


def test_the_finest_evaluations_count(runs: Any) -> None:
    made = []
    for seed in range(3):
        record, history = trained(runs, seed, [0.1, 0.2, 0.6, 0.7], "step/val_accuracy", every=5)
        history["val/accuracy"] = [math.nan, math.nan, math.nan, 0.9]
        made.append((record, history))
    shown = of_target(made, Target(metric="val/accuracy", value=0.4))
    assert shown.cells[0][0].mean == pytest.approx(12.5)
    assert any("evaluations 5 steps apart" in note for note in shown.notes)
    stale = {"target/reached": True, "target/step": 9}
    own = [(RunRecord(r.id, "done", r.config, {**r.summary, **stale}), h) for r, h in made]
    shown = of_target(own, Target(metric="test/accuracy", value=0.4))  # nobody has it
    assert shown.cells[0][0].n == 0


def test_what_cannot_be_asked_for(runs: Any) -> None:
    made = [trained(runs, 0, [0.1, 0.9])]
    with pytest.raises(ValueError, match="target= goes with metric=target/seconds"):
        of_target(made, "auto", metric="steps", baseline=("adamw",))
    with pytest.raises(ValueError, match="is the final value of a row: add baseline=<row>"):
        of_target(made, "auto")
    with pytest.raises(ValueError, match="no row 'admw' to be the baseline; the nearest is"):
        of_target(made, "auto", baseline=("admw",))
    lost = [(made[0][0], pd.DataFrame({"step": [1], "epoch": [0.5]}))]
    with pytest.raises(ValueError, match="adamw has no finished run with a history of val/acc"):
        of_target(lost, "auto", baseline=("adamw",))
    with pytest.raises(ValueError, match="no verdicts"):
        of_target(made, Target(metric="val/accuracy", value=0.5), baseline=("adamw",))
