"""The rule that verdicts followed before: each baseline's column by itself, Holm, a test by counts.

Kept as what the present one is compared with, in false verdicts and in power.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


def rejected(columns: list[Array], level: float = 0.05) -> list[NDArray[np.bool_]]:
    """Return which comparisons of each column of differences [seeds, k] were given a verdict."""
    return [_holm(_p(column, level), level) for column in columns]


def _p(differences: Array, level: float) -> Array:
    n, k = differences.shape
    if n >= max(2, math.ceil(1 + math.log2(k / level))):
        signs = np.array(np.meshgrid(*[[1.0, -1.0]] * n)).reshape(n, -1)
        sums = np.abs(signs.T @ differences)
        return np.asarray(np.mean(sums >= np.abs(differences.sum(axis=0)) - 1e-9, axis=0))
    spread = differences.std(axis=0, ddof=1)
    spread = np.maximum(spread, 0.5 * np.median(spread))
    t = np.abs(differences.mean(axis=0)) / (spread / math.sqrt(n))
    return np.asarray(2 * stats.t.sf(t, n - 1))


def _holm(p: Array, level: float) -> NDArray[np.bool_]:
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    return np.asarray(adjusted <= level)
