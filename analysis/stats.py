"""Statistics over seeds: finite numbers only, the same to the last bit in any order.

Resampled intervals are in `analysis.table.bootstrap`, tests and verdicts in
`analysis.table.comparisons`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Numbers = Sequence[float] | NDArray[np.float64]


class Interval(NamedTuple):
    """A two-sided confidence interval; both ends NaN where the data allow none."""

    low: float
    high: float


NO_INTERVAL = Interval(math.nan, math.nan)


def mean(values: Numbers) -> float:
    """Return the arithmetic mean of ``values`` [n], n >= 1.

    Summed exactly (math.fsum), so that the order of the seeds cannot change a printed digit.

    Raises:
        ValueError: no values, or one that is not finite: leave such runs out, and say so.
    """
    given = _listed(values)
    return math.fsum(given) / len(given)


def sample_std(values: Numbers) -> float:
    """Return the sample standard deviation (divisor n - 1) of ``values`` [n]; NaN for n = 1.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    given = _listed(values)
    if len(given) == 1:
        return math.nan
    centre = math.fsum(given) / len(given)
    return math.sqrt(math.fsum((one - centre) ** 2 for one in given) / (len(given) - 1))


def iqm(values: Numbers) -> float:
    """Return the interquartile mean: the mean without the floor(n/4) lowest and highest values.

    As in Agarwal et al. (2021, rliable: a 25 % trimmed mean); for n <= 3 it is the mean.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    ordered = sorted(_listed(values))
    cut = len(ordered) // 4
    return mean(ordered[cut : len(ordered) - cut])


def t_interval(values: Numbers, level: float = 0.95) -> Interval:
    """Return Student's interval of the mean of ``values`` [n]; NaN for n = 1.

    It covers at its level for normal data of any n >= 2, where the bootstrap of few seeds does
    not (docs/tables.md has the measured coverage of both).

    Raises:
        ValueError: no values, one that is not finite, or a level outside (0, 1).
    """
    check_level(level)
    given = _listed(values)
    if len(given) == 1:
        return NO_INTERVAL
    half = t_quantile(len(given) - 1, level) * sample_std(given) / math.sqrt(len(given))
    centre = mean(given)
    return Interval(centre - half, centre + half)


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """Return how many standard errors Student's interval reaches, for ``freedom`` >= 1."""
    return float(special.stdtrit(freedom, (1 + level) / 2))


def finite(values: Numbers) -> NDArray[np.float64]:
    """Return ``values`` as float64 [n].

    Raises:
        ValueError: no values, or one that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"needs a list of at least one number, not one of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"not finite: {array[~np.isfinite(array)][0]}; leave that run out")
    return array


def _listed(values: Numbers) -> list[float]:
    """Return ``values`` as `finite` does, in a list: five seeds are not worth an array."""
    floats = isinstance(values, list) and {type(value) for value in values} == {float}
    if floats and all(map(math.isfinite, values)):
        return list(values)
    return [float(value) for value in finite(values)]


def check_level(level: float) -> None:
    """Raise ValueError unless ``level`` is a probability strictly between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"level={level}: give a probability between 0 and 1, such as 0.95")
