"""Statistics over seeds: finite numbers only, the same to the last bit in any order.

Means, spreads, Student's and seeded BCa bootstrap intervals; tests and verdicts are in
`analysis.table.comparisons`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
    not (docs/comparing.md has the measured coverage of both).

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


Array = NDArray[np.float64]
# Statistics along the last axis, [..., n] -> [...].
Statistic = Callable[[Array], Array]
# With fewer values than this the interval covers less than 93 % at a level of 95 %.
FEWEST = 10


def means(samples: Array) -> Array:
    """Return the mean along the last axis."""
    return np.asarray(samples.mean(axis=-1))


def iqms(samples: Array) -> Array:
    """Return the interquartile mean (see `analysis.stats.iqm`) along the last axis."""
    size = samples.shape[-1]
    cut = size // 4
    ordered = np.sort(samples, axis=-1) if cut else samples
    return np.asarray(ordered[..., cut : size - cut].mean(axis=-1))


def bca_interval(
    values: Numbers,
    statistic: Statistic = means,
    *,
    level: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """Return the BCa interval of ``statistic`` (Efron 1987) over ``values`` [n].

    Its tails are those of Student's t, widened by sqrt(n / (n - 1)) (Hesterberg 2015, "expanded
    percentiles"): a plain bootstrap of few values is too narrow, and below `FEWEST` values even
    this one is (75 % for 3, 90 % for 5; use `analysis.stats.t_interval` there). The order of the
    values changes nothing. NaN for n = 1; one point where all values are equal.

    Args:
        values: finite numbers.
        statistic: vectorised along the last axis; `means` or `iqms`.
        level: confidence level.
        resamples: bootstrap samples.
        seed: of the resampling; the same seed gives the same interval to the last bit.

    Raises:
        ValueError: no values, one that is not finite, or a level outside (0, 1).
    """
    check_level(level)
    ordered = np.sort(finite(values))
    size = len(ordered)
    if size == 1:
        return NO_INTERVAL
    if ordered[0] == ordered[-1]:
        return Interval(float(ordered[0]), float(ordered[0]))
    rng = np.random.default_rng(seed)
    draws = statistic(ordered[rng.integers(0, size, (resamples, size))])
    point = float(statistic(ordered))
    # Ties count half, or discrete data would look biased.
    below = (np.sum(draws < point) + 0.5 * np.sum(draws == point)) / resamples
    bias = special.ndtri(np.clip(below, 1 / (resamples + 1), resamples / (resamples + 1)))
    tail = float(special.stdtrit(size - 1, (1 + level) / 2)) * math.sqrt(size / (size - 1))
    tails = np.array([-tail, tail])
    shifted = bias + tails
    adjusted = special.ndtr(bias + shifted / (1 - _acceleration(ordered, statistic) * shifted))
    low, high = np.quantile(draws, adjusted)
    return Interval(float(low), float(high))


def _acceleration(values: Array, statistic: Statistic) -> float:
    """Return the jackknife estimate of the acceleration, 0 where it is not defined."""
    size = len(values)
    left_out = np.array([np.delete(values, index) for index in range(size)])
    spread = statistic(left_out)
    deviations = spread.mean() - spread
    scale = np.sum(deviations**2) ** 1.5
    return float(np.sum(deviations**3) / (6 * scale)) if scale > 0 else 0.0
