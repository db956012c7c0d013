"""Times to a target over seeds: to which target, how finely they are known, when they say nothing.

A run that misses the target is censored: its miss counts as longer than the run was. A run's
summary has the target of its config; times to any other are found in the runs' histories, where
seconds, FLOPs and joules are spread evenly over the run's steps.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import pandas as pd

from analysis.table.model import Cell, Run
from bench.training.target import MEASURES, OF_STEPS, Approach, Metric, Target, target_summary

Histories = Callable[[str], pd.DataFrame]  # the rows of a run, by its id; ValueError: no such run
Asked = Target | Literal["auto"]


@dataclass(frozen=True)
class TargetTime:
    """Time to a target: ``reached`` of ``n`` runs; ``median`` is inf where fewer than half do."""

    median: float
    reached: int
    n: int


def time_to_target(times: Sequence[float | None], spent: Sequence[float]) -> TargetTime:
    """Return the median time to a target, runs that missed it censored at what they spent.

    The Kaplan-Meier median: a miss says only that the time is longer than the run was. Leaving
    misses out would flatter a method that rarely gets there.

    Args:
        times: each run's time to the target; None, NaN or inf for a miss.
        spent: each run's whole time, at which a miss is censored; not read for other runs.

    Raises:
        ValueError: no runs, lists of different lengths, or a miss without a time spent.
    """
    if not times or len(times) != len(spent):
        raise ValueError(f"needs a time and a time spent for each run: {len(times)}, {len(spent)}")
    events: list[tuple[float, int]] = []  # (time, 0 for reached or 1 for censored: after it)
    for time, whole in zip(times, spent, strict=True):
        missed = time is None or not math.isfinite(time)
        at = whole if time is None or missed else time
        if not math.isfinite(at):
            raise ValueError("a run that missed the target needs the time that it spent")
        events.append((at, int(missed)))
    survival, at_risk, median = 1.0, len(events), math.inf
    for at, missed_it in sorted(events):
        if not missed_it:
            survival *= (at_risk - 1) / at_risk
            if survival <= 0.5 + 1e-12 and math.isinf(median):
                median = at
        at_risk -= 1
    return TargetTime(median, sum(not missed for _, missed in events), len(events))


_TARGET = "target/"
WITHHELD = " withheld: "  # in notes, before the reason
TOKENS = "tokens_per_second"  # only language models have it
# What a run spent in all, at which its miss is censored: summary columns that add up to it.
_SPENT = {
    "seconds": ("clock/data_seconds", "clock/step_seconds"),
    "step": ("steps",),
    "epoch": ("epochs",),
    "flops": ("flops/total",),
    "joules": ("energy/joules",),
}
SPENT = tuple(name for names in _SPENT.values() for name in names)
REACHED = "target/reached"
# What is read of each run's target.
OF_TARGETS = (
    REACHED, "target/metric", "target/value", "target/step", "target/epoch",
    "target/interpolated", "target/resolution",
)  # fmt: skip


def is_target(metric: str) -> bool:
    """Return whether a metric is what it took to reach the target, which a run can miss."""
    return metric.startswith(_TARGET) and metric.removeprefix(_TARGET) in _SPENT


def has_target(run: Run) -> bool:
    """Return whether a run says if it reached its target."""
    return isinstance(run.get(REACHED), bool)


def target_cell(cell: Cell, runs: Sequence[Run], metric: str) -> Cell:
    """Return ``cell`` with the median time to the target over its finished and diverged runs.

    A finished run that missed is censored at what it spent; a diverged one will never get there.
    One that got there without counting what it took (FLOPs, say) is left out. ``mean`` holds the
    median, inf where fewer than half got there.
    """
    times: list[float | None] = []
    spent: list[float] = []
    ids = []
    for run in _ended(runs):
        reached = _arrived(run)
        if reached and run.get(metric) is None:
            continue
        ids.append(str(run["id"]))
        times.append(float(run[metric]) if reached else None)
        whole = _spent(run, metric.removeprefix(_TARGET)) if run["state"] == "done" else None
        spent.append(sys.float_info.max if whole is None else whole)
    if not times:
        return cell
    found = time_to_target(times, spent)
    return Cell(
        mean=found.median,
        std=math.nan,
        n=found.n,
        expected=cell.expected,
        diverged=cell.diverged,
        seconds=cell.seconds,
        run_ids=tuple(ids),
        iqm=found.median,
        reached=found.reached,
    )


def _ended(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run["state"] in ("done", "diverged") and has_target(run)]


def _arrived(run: Run) -> bool:
    return bool(run[REACHED]) and run["state"] == "done"


def _spent(run: Run, measure: str) -> float | None:
    """Return what the run spent in all; None where it does not say."""
    known = [run.get(name) for name in _SPENT[measure]]
    return None if None in known else math.fsum(known)  # type: ignore[arg-type]


# -- what is said of a column ---------------------------------------------------------------------


def withheld(runs: Sequence[Run]) -> str | None:
    """Return why the times to the target of a column's runs say nothing; None where they do.

    They do not where most runs are there at their first evaluation, before which nobody looked, or
    where fewer than half get there at all.
    """
    ended = _ended(runs)
    arrived = [run for run in ended if _arrived(run)]
    first = sum(map(_at_first_evaluation, arrived))
    if 2 * len(arrived) < len(ended):
        return f"{len(arrived)} of {len(ended)} runs reach {_named(ended)}: fewer than half"
    if 2 * first > len(ended):
        return (
            f"{first} of {len(ended)} runs reach {_named(ended)} at their first evaluation:"
            " no resolution"
        )
    return None


def _at_first_evaluation(run: Run) -> bool:
    if run.get("target/resolution") is None:  # of before there was one: at the ends of epochs
        epoch = run.get("target/epoch")
        return epoch is not None and bool(epoch <= 1)
    return not run["target/interpolated"] and run["target/step"] <= run["target/resolution"]


def _named(runs: Sequence[Run]) -> str:
    """Return the runs' targets: "val/accuracy 0.93"."""
    stated = [run for run in runs if run.get("target/metric") and run.get("target/value")]
    found = sorted({(run["target/metric"], run["target/value"]) for run in stated})
    return " or ".join(f"{metric} {value:.5g}" for metric, value in found) or "their target"


def is_about_target(note: str) -> bool:
    """Return whether a table's note says which target it has, or why its times are withheld."""
    return note.startswith("Target of ") or (note.startswith(_TARGET) and WITHHELD in note)


def described(runs: Sequence[Run]) -> str:
    """Return a column's targets and how finely arrivals are known; empty without any run."""
    ended = _ended(runs)
    if not ended:
        return ""
    arrived = [run for run in ended if _arrived(run)]
    known = [run.get("target/resolution") for run in arrived]
    steps = sorted({float(one) for one in known if one is not None})
    coarse = known.count(None)
    text = _named(ended)
    if steps:
        ends = " to ".join(dict.fromkeys(f"{end:g}" for end in (steps[0], steps[-1])))
        text += f", interpolated between evaluations {ends} steps apart"
    if coarse:
        text += f", {coarse} of {len(arrived)} arrivals at the end of an epoch"
    return text


# -- another target than the runs' own ------------------------------------------------------------


def with_target(
    rows: Mapping[str, Sequence[Run]], asked: Asked, baseline: str, histories: Histories
) -> tuple[dict[str, list[Run]], str]:
    """Return a column's runs, by row, with the times to the target that is asked for.

    "auto" is the median of the baseline's final values, so that it only just arrives: of the
    validation accuracy, or a language model's loss.

    Returns:
        The runs, and how the target was chosen (empty where it was given). A run without such a
        history has no target.

    Raises:
        ValueError: the baseline has no finished run with a history.
    """
    how = ""
    if asked == "auto":
        every = [run for runs in rows.values() for run in runs]
        language = any(run.get(TOKENS) is not None for run in every)
        metric: Metric = "val/loss" if language else "val/accuracy"
        done = [run for run in rows.get(baseline, ()) if run["state"] == "done"]
        known = [_evaluations(histories, run, metric) for run in done]
        finals = [float(one[-1][-1]) for one in known if one]
        if not finals:
            raise ValueError(
                f"target=auto: {baseline} has no finished run with a history of {metric};"
                " name another row with baseline=, or give a target"
            )
        asked = Target(metric=metric, value=median(finals))
        how = f"the median final value of {baseline}, {len(finals)} runs"
    found: dict[str, list[Run]] = {}
    for label, runs in rows.items():
        found[label] = [{**run, **_to(asked, run, histories)} for run in runs]
    return found, how


def _to(target: Target, run: Run, histories: Histories) -> dict[str, Any]:
    """Return what the run's summary would say, had its config this target."""
    known = _evaluations(histories, run, target.metric)
    steps = run.get("steps")
    if not known or not steps:
        return {REACHED: None, **{f"{_TARGET}{measure}": None for measure in MEASURES}}
    approach = Approach(target)
    for step, epoch, value in known:
        whole = {measure: _spent(run, measure) for measure in MEASURES}
        share = step / float(steps)
        spent = {name: None if total is None else share * total for name, total in whole.items()}
        approach.see(value, {**spent, "step": step, "epoch": epoch})
    return target_summary(approach)


def _evaluations(
    histories: Histories, run: Run, metric: Metric
) -> list[tuple[float, float, float]]:
    """Return (step, epoch, value) of the finest evaluations of ``metric`` that a run has."""
    try:
        history = histories(str(run["id"]))
    except ValueError:
        return []
    for name in (OF_STEPS.get(metric), metric):
        if name in history:
            whole = history[["step", "epoch", name]].dropna().astype("float64")
            return [(step, epoch, value) for step, epoch, value in whole.to_numpy().tolist()]
    return []
