"""Made-up sections: 14 methods, two of them baselines, and two contrasts: 28 comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rng = np.random.Generator
METHODS = 14
_SPREADS = np.geomspace(0.2, 5, METHODS)

# Equal methods, by what their results [seeds, methods] differ.
NULLS: dict[str, Callable[[Rng, int], Array]] = {
    "normal": lambda rng, n: rng.normal(size=(n, METHODS)),
    "normal, spreads 0.2 to 5": lambda rng, n: rng.normal(size=(n, METHODS)) * _SPREADS,
    "seeds shared": lambda rng, n: 2 * rng.normal(size=(n, 1)) + rng.normal(size=(n, METHODS)),
    "heavy tails": lambda rng, n: rng.standard_t(3, size=(n, METHODS)),
    "lognormal": lambda rng, n: rng.lognormal(0, 1, size=(n, METHODS)),
    "lognormal, seeds shared": lambda rng, n: (
        rng.lognormal(0, 1, size=(n, 1)) + rng.lognormal(0, 1, size=(n, METHODS))
    ),
    "ties of 1/10,000": lambda rng, n: np.round(0.93 + 0.0018 * rng.normal(size=(n, METHODS)), 4),
    "359 test images": lambda rng, n: rng.binomial(359, 0.9975, (n, METHODS)) / 359,
    "two groups": lambda rng, n: (
        rng.integers(0, 2, (n, METHODS)) + rng.normal(0, 0.05, (n, METHODS))
    ),
}

# Equal means, lopsided and of unequal spread: a difference is not as likely as its negative.
LIMITS: dict[str, Callable[[Rng, int], Array]] = {
    "lognormal of sigma 0.5, spreads 0.5 to 2": lambda rng, n: (
        (rng.lognormal(0, 0.5, (n, METHODS)) - math.exp(0.125)) * np.geomspace(0.5, 2, METHODS)
    ),
    "lognormal of sigma 1, spreads 0.2 to 5": lambda rng, n: (
        (rng.lognormal(0, 1, (n, METHODS)) - math.exp(0.5)) * _SPREADS
    ),
}


def _shifted(*shifts: float) -> Callable[[Rng, int], Array]:
    given = np.array([*shifts, *[0.0] * (METHODS - len(shifts))])
    return lambda rng, n: rng.normal(size=(n, 1)) + rng.normal(size=(n, METHODS)) + given


# In standard deviations of one method's own noise; the first two are the baselines.
ALTERNATIVES = {
    "one method is better": _shifted(0, 0, 2.0),
    "a baseline is better, and half of the rest": _shifted(0, 2.0, *[1.5] * 6),
    "all differ": _shifted(*np.linspace(-2.5, 2.5, METHODS)),
}


def columns(results: Array) -> list[Array]:
    """Return differences [seeds, k]: with each baseline, and the contrasts."""
    first = np.delete(results, 0, axis=1) - results[:, [0]]
    second = np.delete(results, 1, axis=1) - results[:, [1]]
    contrasts = results[:, [2, 4]] - results[:, [3, 5]]
    return [first, second, contrasts]
