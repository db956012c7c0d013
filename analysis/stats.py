"""Statistics over seeds: numpy only, finite numbers only, the same to the last bit in any order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[float] | NDArray[np.float64]


def mean(values: Numbers) -> float:
    """Return the arithmetic mean of ``values`` [n], n >= 1.

    Summed exactly (math.fsum), so that the order of the seeds cannot change a printed digit.

    Raises:
        ValueError: no values, or one that is not finite: leave such runs out, and say so.
    """
    finite = _finite(values)
    return math.fsum(finite) / len(finite)


def sample_std(values: Numbers) -> float:
    """Return the sample standard deviation (divisor n - 1) of ``values`` [n]; NaN for n = 1.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    finite = _finite(values)
    if len(finite) == 1:
        return math.nan
    centre = mean(finite)
    return math.sqrt(math.fsum((finite - centre) ** 2) / (len(finite) - 1))


def _finite(values: Numbers) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"needs a list of at least one number, not one of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"not finite: {array[~np.isfinite(array)][0]}; leave that run out")
    return array
