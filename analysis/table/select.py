"""What a table is asked for, taken from the runs' frame; and times to a target.

A misspelt name is an error of one line. A run that misses the target is censored: its miss counts
as longer than the run was.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.run.frame import FIXED, GROUPS, nearest
from analysis.table.model import Cell, Run
from analysis.table.timing import GRAPH, SECONDS


def performance_profile(costs: ArrayLike, ratios: ArrayLike) -> NDArray[np.float64]:
    """Return the performance profile of each method (Dolan and Moré 2002).

    Args:
        costs: [methods, problems], positive, less is better; inf or NaN where the method missed
            the problem's target. A problem that every method missed counts for none.
        ratios: [r] factors >= 1 of the best method's cost on a problem.

    Returns:
        [methods, r]: the share of problems on which the method's cost is at most the ratio times
        the best method's.

    Raises:
        ValueError: not a matrix with a problem, or a cost that is not positive.
    """
    given = np.asarray(costs, dtype=np.float64)
    if given.ndim != 2 or given.size == 0:
        raise ValueError(f"costs must be [methods, problems], not of shape {given.shape}")
    given = np.where(np.isnan(given), np.inf, given)
    if (given <= 0).any():
        raise ValueError("costs must be positive; a profile compares their ratios")
    best = given.min(axis=0)
    with np.errstate(invalid="ignore"):
        relative = np.where(np.isfinite(given), given / best, np.inf)
    allowed = np.asarray(ratios, dtype=np.float64)
    return np.asarray((relative[:, :, None] <= allowed).mean(axis=1))


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
# What a run spent in all, at which its miss is censored: summary columns that add up to it.
_SPENT = {
    "seconds": ("clock/data_seconds", "clock/step_seconds"),
    "step": ("steps",),
    "epoch": ("epochs",),
    "flops": ("flops/total",),
}
SPENT = tuple(name for names in _SPENT.values() for name in names)
REACHED = "target/reached"


def is_target(metric: str) -> bool:
    """Return whether a metric is what it took to reach the target, which a run can miss."""
    return metric.startswith(_TARGET) and metric.removeprefix(_TARGET) in _SPENT


def has_target(run: Run) -> bool:
    """Return whether a run says if it reached its target."""
    return isinstance(run.get(REACHED), bool)


def target_cell(cell: Cell, runs: Sequence[Run], metric: str) -> Cell:
    """Return ``cell`` with the median time to the target over its finished and diverged runs.

    A finished run that missed is censored at what it spent; a diverged one will never get there.
    ``mean`` holds the median, inf where fewer than half got there.
    """
    times: list[float | None] = []
    spent: list[float] = []
    ids = []
    for run in runs:
        if run["state"] not in ("done", "diverged") or not has_target(run):
            continue
        ids.append(str(run["id"]))
        reached = run[REACHED] and run["state"] == "done"
        times.append(float(run[metric]) if reached else None)
        spent.append(_spent(run, metric) if run["state"] == "done" else sys.float_info.max)
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


def _spent(run: Run, metric: str) -> float:
    """Return what the run spent in all; where it does not say, as if it went on for ever."""
    parts = [run.get(name) for name in _SPENT[metric.removeprefix(_TARGET)]]
    known = [float(part) for part in parts if part is not None]
    return math.fsum(known) if len(known) == len(parts) else sys.float_info.max


_CONFIG_OR_PROVENANCE = ("config.", "provenance.")


def of_sweep(runs: pd.DataFrame, sweep: str | None) -> pd.DataFrame:
    """Return the runs of a sweep, all where it is None; ValueError where there are none."""
    if runs.empty:
        raise ValueError("no runs there; make some with `python -m bench.train ...`")
    if sweep is None:
        return runs
    kept = runs[runs["sweep"] == sweep]
    if kept.empty:
        known = sorted({str(name) for name in runs["sweep"] if isinstance(name, str)})
        hint = f"; sweeps here: {', '.join(known)}" if known else "; no run here has a sweep"
        raise ValueError(f"no runs of sweep {sweep!r}{hint}")
    return kept


def check_metric(runs: pd.DataFrame, metric: str) -> None:
    """Raise ValueError where no finished run could have ``metric``, naming the nearest."""
    if not (runs["state"] == "done").any():
        return  # nothing to compare the name with; the table will say that nothing is finished
    if is_target(metric) and REACHED in runs:
        return  # all may have missed it, so that no run has a number
    known = [
        str(name)
        for name in runs.columns
        if name not in FIXED
        and not name.startswith(_CONFIG_OR_PROVENANCE)
        and runs[name].dtype == "float64"
    ]
    if metric not in known:
        hint = nearest(metric, known) or f"; known: {', '.join(known)}"
        raise ValueError(f"unknown metric {metric!r}{hint}")


def column(runs: pd.DataFrame, name: str) -> str:
    """Return the frame's column for ``optimizer``, ``optimizer.lr`` or ``config.optimizer.lr``."""
    config = [str(column) for column in runs.columns if column.startswith("config.")]
    known = (*GROUPS, "sweep", "variant", *config)
    for candidate in (name, f"config.{name}"):
        if candidate in known:
            return candidate
    short = [column.removeprefix("config.") for column in known]
    raise ValueError(f"unknown column {name!r}{nearest(name, short)}; try {', '.join(GROUPS)}")


def records(runs: pd.DataFrame, metric: str) -> list[Run]:
    """Return the frame's rows as mappings, None for every missing value.

    Of the summaries' columns there are those that a table of ``metric`` reads, and no others.
    """
    summary = (metric, SECONDS, GRAPH, REACHED, *SPENT)
    names = [str(name) for name in runs.columns]
    names = [n for n in names if n in FIXED or n in summary or n.startswith(_CONFIG_OR_PROVENANCE)]
    columns = [runs[n].astype("object").where(runs[n].notna(), None).tolist() for n in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
