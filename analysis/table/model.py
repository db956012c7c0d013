"""What a table is: numbers without a form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.stats import NO_INTERVAL, Interval, Numbers
from analysis.table.comparisons import Comparison

Statistic = Literal["mean", "iqm"]
Spread = Literal["std", "interval"]


def in_percent(metric: str) -> bool:
    """Return whether a metric is an accuracy: a fraction, shown in percent."""
    return metric.endswith("accuracy")


def possible(metric: str, shown: Numbers) -> NDArray[np.float64]:
    """Return the ends of a band [n], cut to what the metric can be.

    Student's interval knows no such limits.

    Args:
        metric: an accuracy is 0 to 100, a loss at least 0; of others nothing is known.
        shown: as drawn, an accuracy in percent; NaN stays.
    """
    if in_percent(metric):
        return np.clip(shown, 0.0, 100.0)
    return np.clip(shown, 0.0 if metric.endswith("loss") else -math.inf, math.inf)


@dataclass(frozen=True)
class Cell:
    """One cell: its statistics are over ``run_ids``, the finished runs; NaN where there are none.

    ``std`` is the sample standard deviation, NaN for one run; ``expected`` counts the column's
    seeds; ``diverged`` counts this row's diverged runs. ``seconds`` are those an epoch of its runs
    took, none where they cannot be compared. ``interval`` is the 95 % interval of the
    table's statistic, ``comparison`` that with the baseline, ``needed`` the seeds that would
    resolve the difference asked for.
    """

    mean: float
    std: float
    n: int
    expected: int
    diverged: int
    seconds: tuple[float, ...]
    run_ids: tuple[str, ...]
    best: bool = False
    iqm: float = math.nan
    interval: Interval = NO_INTERVAL
    comparison: Comparison | None = None
    needed: int | None = None
    reached: int | None = None  # of a time to a target: how many of the n runs got there

    @property
    def seconds_per_epoch(self) -> float:
        """The median over the runs: one that had to wait says nothing; NaN where there are none."""
        return median(self.seconds) if self.seconds else math.nan


@dataclass(frozen=True)
class Table:
    """A table of numbers, still without a form; ``cells[i][j]`` is row i, column j."""

    metric: str
    corner: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    statistic: Statistic = "mean"
    spread: Spread = "std"
    baseline: str | None = None
    resolve: float | None = None
