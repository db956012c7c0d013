"""How many seeds resolve a difference."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from analysis.stats import check_level

_MOST_SEEDS = 10_000


def seeds_needed(std: float, difference: float, *, level: float = 0.05, power: float = 0.8) -> int:
    """Return the fewest seeds with which a paired t-test resolves a difference.

    Args:
        std: standard deviation of the paired differences.
        difference: the true difference to be shown, in the metric's unit; not 0.
        level: of the two-sided test; divide by the number of comparisons for a whole table.
        power: probability of showing it.

    Raises:
        ValueError: a difference of 0, or more than 10,000 seeds.
    """
    check_level(level)
    check_level(power)
    if difference == 0 or not math.isfinite(difference) or not math.isfinite(std):
        raise ValueError(f"cannot resolve a difference of {difference} at a std of {std}")
    low, high = 2, _MOST_SEEDS
    if _power(high, std, difference, level) < power:
        raise ValueError(f"a difference of {difference} needs more than {_MOST_SEEDS} seeds")
    while low < high:
        middle = (low + high) // 2
        if _power(middle, std, difference, level) >= power:
            high = middle
        else:
            low = middle + 1
    return low


def _power(n: int, std: float, difference: float, level: float) -> float:
    """Return the power of the two-sided paired t-test (noncentral t)."""
    if std == 0:
        return 1.0
    critical = float(special.stdtrit(n - 1, 1 - level / 2))
    shift = math.sqrt(n) * abs(difference) / std
    if shift > critical + 10 and n > 10:  # where scipy's noncentral t gives no number
        return 1.0
    tails = special.nctdtr(n - 1, shift, np.array([critical, -critical]))
    return float(1 - tails[0] + np.nan_to_num(tails[1]))
