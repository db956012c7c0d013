"""The tail of a weight matrix's spectrum, by two definitions that are not the same thing.

numpy only; array-likes [n] in, float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_NAN = float("nan")
SMALLEST_TAIL = 10


class TailFit(NamedTuple):
    """A density p(x) ~ x^-exponent above xmin.

    Attributes:
        exponent: maximum likelihood (Hill); NaN where there are too few values.
        xmin: where the tail begins: the value that makes ``distance`` smallest.
        n_tail: how many values are in the tail.
        distance: Kolmogorov-Smirnov distance of the tail to its fit, the share of values *below*
            each one being its empirical distribution, as in `powerlaw`.
        stderr: (exponent - 1) / sqrt(n_tail).
    """

    exponent: float
    xmin: float
    n_tail: int
    distance: float
    stderr: float


def clauset(values: ArrayLike) -> TailFit:
    """Fit a power-law tail to positive values (Clauset, Shalizi and Newman 2009, continuous case).

    Each value with at least 10 values at or above it is tried as xmin. Agrees with the package
    `powerlaw`, which takes minutes for the layers of one network where this takes milliseconds.
    """
    given = np.asarray(values, dtype=np.float64)
    x = np.sort(given[(given > 0) & np.isfinite(given)])
    if len(x) < SMALLEST_TAIL or x[0] == x[-1]:
        return TailFit(_NAN, _NAN, 0, _NAN, _NAN)
    log_x = np.log(x)
    best = TailFit(_NAN, _NAN, 0, float("inf"), _NAN)
    for start in range(len(x) - SMALLEST_TAIL + 1):
        if start and x[start] == x[start - 1]:
            continue  # the same xmin, with a part of its values
        tail, n = log_x[start:] - log_x[start], len(x) - start
        if tail[-1] == 0:
            break
        slope = n / float(tail.sum())  # exponent - 1
        fitted = -np.expm1(-slope * tail)
        empirical = np.arange(n) / n
        distance = float(np.abs(fitted - empirical).max())
        if distance < best.distance:
            best = TailFit(1 + slope, float(x[start]), n, distance, slope / float(np.sqrt(n)))
    return best
