"""Cells of a time to a target: medians in which a miss counts as longer than the run was."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from analysis.table.model import Cell
from analysis.table.profiles import time_to_target
from analysis.table.rows import Run

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


def tells(run: Run) -> bool:
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
        if run["state"] not in ("done", "diverged") or not tells(run):
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
