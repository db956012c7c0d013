"""Comparisons over several problems, and times to a target where some runs never reach it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
