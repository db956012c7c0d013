"""One family of comparisons, judged together: step-down max-T by sign flips over seeds.

Westfall and Young (1993, algorithm 2.8); Romano and Wolf (2005). If methods are equal, a seed's
whole vector of paired differences is as likely as its negative. So the sign of each seed's vector
is flipped, all comparisons at once, and the largest statistic of the family is kept. A comparison's
p is how often that largest one reaches its own; those with a larger statistic of their own are left
out of it (step-down).

The statistic is ``|sum d| / sqrt(sum d^2)``. At equal n it is an increasing function of Student's
t. Under flips its variance is 1 at every n, so comparisons of few seeds do not rule the maximum as
those of a heavy-tailed t would. A further seed equal to the mean difference raises it and never
raises a p while all patterns are used (up to `EXACT` seeds): no verdict is taken away by more
evidence of the same (tests/analysis/judge).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Differences = Mapping[int, float]  # seed -> method minus other

EXACT = 16  # seeds up to which every pattern of signs is used
FLIPS = 20_000  # seeded patterns beyond
_TIE = 1e-9  # equal sums may differ in the last bits
_CHUNK = 4_000_000  # numbers at a time


def matrix(comparisons: Sequence[Differences]) -> Array:
    """Return the differences [seeds, comparisons], seeds in order; NaN where a seed has no pair."""
    seeds = sorted({seed for one in comparisons for seed in one})
    rows = [[one.get(seed, math.nan) for one in comparisons] for seed in seeds]
    return np.array(rows, dtype=np.float64).reshape(len(seeds), len(comparisons))


def statistics(differences: Array) -> Array:
    """Return the statistic of each column of ``differences`` [seeds, k], between 0 and sqrt(n).

    0 where every difference is; NaN where there are fewer than two.
    """
    return np.where(_enough(differences), np.abs(_scaled(differences).sum(axis=0)), math.nan)


def least_p(seeds: int) -> float:
    """Return the smallest p that ``seeds`` can give: two of 2^seeds patterns, or of those drawn."""
    return 2.0 ** (1 - seeds) if seeds <= EXACT else 1 / (1 + FLIPS)


class PValues(NamedTuple):
    """Two-sided p of each comparison [k], by itself and as one of the family; NaN: not tested."""

    alone: Array
    adjusted: Array


def p_values(differences: Array, *, seed: int = 0) -> PValues:
    """Return the p of each column, and its step-down max-T p; NaN of fewer than two seeds.

    Args:
        differences: [seeds, k], float64; NaN where a seed has no pair.
        seed: of the patterns drawn, where there are more than `EXACT` seeds.

    Raises:
        ValueError: a difference that is infinite.
    """
    if np.isinf(differences).any():
        raise ValueError("a difference is not finite; leave that run out")
    alone, adjusted = np.full((2, differences.shape[1]), math.nan)
    tested = np.flatnonzero(_enough(differences))
    if tested.size == 0:
        return PValues(alone, adjusted)
    observed = statistics(differences)[tested]
    order = np.argsort(-observed, kind="stable")
    ranked, scaled = observed[order], _scaled(differences[:, tested[order]])
    scaled = scaled[np.any(scaled != 0, axis=1)]  # flipping a seed of zeros changes nothing
    own, reached, count = np.zeros(len(ranked)), np.zeros(len(ranked)), 0
    for signs in _patterns(len(scaled), len(ranked), seed):
        flipped = np.abs(signs @ scaled)
        own += np.sum(flipped >= ranked - _TIE, axis=0)
        # Of each comparison and all that rank below it.
        largest = np.maximum.accumulate(flipped[:, ::-1], axis=1)[:, ::-1]
        reached += np.sum(largest >= ranked - _TIE, axis=0)
        count += len(signs)
    drawn = len(scaled) > EXACT  # the observed pattern is then one more
    alone[tested[order]] = (own + drawn) / (count + drawn)
    adjusted[tested[order]] = np.maximum.accumulate((reached + drawn) / (count + drawn))
    return PValues(alone, adjusted)


def _enough(differences: Array) -> NDArray[np.bool_]:
    return np.asarray(np.sum(~np.isnan(differences), axis=0) > 1)


def _scaled(differences: Array) -> Array:
    """Return the columns divided by their root of the sum of squares; 0 for what is missing."""
    given = np.nan_to_num(differences, nan=0.0)
    largest = np.abs(given).max(axis=0, initial=0.0)
    given = given / np.where(largest > 0, largest, 1.0)  # squares of tiny numbers would vanish
    length = np.sqrt(np.sum(given**2, axis=0))
    return np.asarray(given / np.where(length > 0, length, 1.0))


def _patterns(seeds: int, columns: int, seed: int) -> Iterator[Array]:
    """Yield patterns of signs [some, seeds] in chunks: all of them, or `FLIPS` drawn ones.

    The first seed keeps its sign where all are used: a pattern and its negative say the same.
    """
    size = max(1, _CHUNK // max(columns, seeds, 1))
    if seeds > EXACT:
        bits = np.random.default_rng(seed).integers(0, 2, (FLIPS, seeds))
        drawn = 1.0 - 2.0 * bits.astype(np.float64)
        yield from (drawn[start : start + size] for start in range(0, FLIPS, size))
        return
    total, places = 2 ** max(seeds - 1, 0), np.arange(seeds)[::-1]
    for start in range(0, total, size):
        numbers = np.arange(start, min(start + size, total))
        yield 1.0 - 2.0 * (numbers[:, None] >> places & 1).astype(np.float64)
