"""Optimizers over several tasks: mean ranks with intervals, and performance profiles.

The one aggregate of the benchmark, declared here and the same for every page, whatever it says. It
was declared after studies (a) to (e) had been seen, and before any later one:

    the mean rank among `DECLARED`, by each section's primary outcome, over all sections in which
    each of them has runs.

A section is one study at one dataset, model and horizon. Tasks (a dataset and model) count equally,
then the horizons of a task, then the sections of a horizon: eight and thirty epochs of one network
are half a task each. Within a section a method's score is the mean over the seeds that all of
`DECLARED` have there (Demsar 2006: ranks of means); equal scores share their ranks. A diverged run
makes the mean infinitely bad, so that no method gains by its lucky seeds.

Other methods are ranked beside `DECLARED`, each alone, in the sections where they ran: neither who
else took part nor a missing section of another changes a rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.judge.verdicts import Seeds
from analysis.stats import NO_INTERVAL, Interval, check_level

Array = NDArray[np.float64]

DECLARED = ("adamw", "muon", "spectral_newton")
RESAMPLES = 4000
_DIGITS = 12  # equal means of the same numbers may differ in the last bits


class NoSectionError(ValueError):
    """No section has runs of every method that is to be ranked."""


@dataclass(frozen=True)
class Section:
    """One study at one dataset, model and horizon.

    Attributes:
        name: the study's.
        task: dataset and model.
        horizon: epochs.
        outcome: the metric by which it is judged.
        direction: 1 where larger is better, -1 where smaller is.
        numbers: of each method, by seed; None: the run diverged, or missed its target.
        several: methods that have several settings here, and so no rank.
    """

    name: str
    task: str
    horizon: float
    outcome: str
    direction: int
    numbers: Mapping[str, Seeds]
    several: tuple[str, ...] = field(default=())

    def costs(self, methods: Sequence[str]) -> Array:
        """Return [methods, seeds] of the seeds that all have: less is better, inf for the worst."""
        shared = sorted(set.intersection(*(set(self.numbers.get(one, ())) for one in methods)))
        given = [[self.numbers[one][seed] for seed in shared] for one in methods]
        costs = [[math.inf if v is None else -self.direction * v for v in row] for row in given]
        return np.array(costs, dtype=np.float64).reshape(len(methods), len(shared))


@dataclass(frozen=True)
class MeanRank:
    """The mean rank of a method among ``of``, itself counted; 1 is the best.

    ``over_seeds`` is of these tasks, seeds drawn anew; ``over_tasks`` also draws the tasks anew,
    NaN where there is one. ``by_section``: the rank in each of the aggregate's sections, NaN where
    the method did not run. ``tasks`` counts those in which it did.
    """

    method: str
    rank: float
    of: int
    over_seeds: Interval
    over_tasks: Interval
    by_section: tuple[float, ...]
    tasks: int


@dataclass(frozen=True)
class Aggregate:
    """``ranks``: of `methods` by rank, then of ``others`` by rank.

    ``weights`` [sections] add up to 1. ``left_out``: sections that lack one of the methods, and
    which they lack.
    """

    methods: tuple[str, ...]
    sections: tuple[Section, ...]
    weights: tuple[float, ...]
    ranks: tuple[MeanRank, ...]
    others: tuple[MeanRank, ...]
    left_out: tuple[tuple[Section, tuple[str, ...]], ...]

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return len({one.task for one in self.sections})


def aggregate(
    sections: Sequence[Section],
    methods: Sequence[str] = DECLARED,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Aggregate:
    """Return the mean rank of each of ``methods``, and of every other beside them.

    Args:
        sections: all there are; their order changes nothing.
        methods: two or more, the ones that are ranked among each other.
        level: of the percentile bootstrap intervals.
        resamples: how often seeds are drawn anew, the same seeds for all methods of a section.
        seed: of the drawing; the same gives the same intervals.

    Raises:
        NoSectionError: no section has runs of all methods.
        ValueError: fewer than two methods, or a level outside (0, 1).
    """
    check_level(level)
    if len(set(methods)) < 2 or len(set(methods)) < len(methods):
        raise ValueError(f"ranks need two methods or more, each once, not {', '.join(methods)}")
    ordered = sorted(sections, key=lambda one: (one.task, one.horizon, one.name))
    lacking = {k: _lacking(one, methods) for k, one in enumerate(ordered)}
    kept = tuple(one for k, one in enumerate(ordered) if not lacking[k])
    if not kept:
        raise NoSectionError(f"no section has runs of {', '.join(methods)} with a seed in common")
    draws = _Draws(kept, tuple(methods), level, resamples, seed)
    rest = sorted({name for one in kept for name in one.numbers} - set(methods))
    return Aggregate(
        tuple(methods), kept, tuple(map(float, weights(kept))),
        _by_rank(draws.mean_rank(name) for name in methods),
        _by_rank(draws.mean_rank(name) for name in rest),
        tuple((one, lacking[k]) for k, one in enumerate(ordered) if lacking[k]),
    )  # fmt: skip


def _lacking(section: Section, methods: Sequence[str]) -> tuple[str, ...]:
    """Return which methods the section lacks; all of them where they have no seed in common."""
    absent = tuple(one for one in methods if not section.numbers.get(one))
    return absent or (() if section.costs(methods).size else tuple(methods))


def _by_rank(ranks: Iterable[MeanRank]) -> tuple[MeanRank, ...]:
    return tuple(sorted(ranks, key=lambda one: (one.rank, one.method)))


def weights(sections: Sequence[Section]) -> Array:
    """Return what each section counts [sections], 1 in all: by task, horizon, and study."""
    found = np.ones(len(sections))
    tasks = {one.task for one in sections}
    for k, one in enumerate(sections):
        of_task = [other for other in sections if other.task == one.task]
        twins = sum(other.horizon == one.horizon for other in of_task)
        found[k] /= len(tasks) * len({other.horizon for other in of_task}) * twins
    return found


def rank_beside(own: Array, others: Array) -> Array:
    """Return the rank of ``own`` [...] beside ``others`` [..., k]: 1 is the best, ties share.

    Args:
        own: costs, less is better; inf for the worst.
        others: costs of the others.
    """
    better = np.sum(others < own[..., None], axis=-1)
    equal = np.sum(others == own[..., None], axis=-1)
    return np.asarray(1.0 + better + 0.5 * equal)


def _rank(costs: Array) -> Array:
    """Return the rank [...] of the first method by its mean of ``costs`` [methods, ..., seeds]."""
    finite = np.abs(costs[np.isfinite(costs)]).max(initial=0.0)
    means = np.round(costs.mean(axis=-1) / (finite or 1.0), _DIGITS)
    return rank_beside(means[0], np.moveaxis(means[1:], 0, -1))


class _Draws:
    """Ranks of one aggregate, and of its seeds and tasks drawn anew."""

    def __init__(
        self, sections: Sequence[Section], methods: tuple[str, ...], level: float, resamples: int,
        seed: int,
    ) -> None:  # fmt: skip
        self._sections, self._methods, self._level = sections, methods, level
        rng = np.random.default_rng(seed)
        # Uniform numbers become seeds: how many there are differs by method.
        self._uniform = [
            rng.random((resamples, one.costs(methods).shape[1])) for one in sections
        ]  # fmt: skip
        tasks = sorted({one.task for one in sections})
        self._drawn = {task: rng.random(resamples) for task in tasks}

    def mean_rank(self, name: str) -> MeanRank:
        """Return the mean rank of a method over the sections in which it ran."""
        others = [one for one in self._methods if one != name]
        points, resampled, there = [], [], []
        for k, section in enumerate(self._sections):
            costs = section.costs([name, *others]) if section.numbers.get(name) else np.empty(0)
            if costs.size == 0:
                continue
            at = (self._uniform[k] * costs.shape[1]).astype(np.int64)[:, : costs.shape[1]]
            points.append(float(_rank(costs)))
            resampled.append(_rank(costs[:, at]))  # of [methods, resamples, seeds]
            there.append(k)
        own = [self._sections[k] for k in there]
        counts, ranks = weights(own), np.array(resampled)
        rank = round(float(counts @ points), _DIGITS)  # weights such as 1/3 are not exact
        by_section = np.full(len(self._sections), math.nan)
        by_section[there] = points
        return MeanRank(
            name, rank, 1 + len(others), self._interval(counts @ ranks, rank),
            self._over_tasks(own, counts, ranks, rank), tuple(map(float, by_section)),
            len({one.task for one in own}),
        )  # fmt: skip

    def _over_tasks(
        self, sections: Sequence[Section], counts: Array, ranks: Array, rank: float
    ) -> Interval:
        """Return the interval where tasks are drawn anew, each with all of its horizons."""
        tasks = sorted({one.task for one in sections})
        if len(tasks) < 2:
            return NO_INTERVAL
        of_task = np.array([[one.task == task for one in sections] for task in tasks])
        means = (of_task * counts * len(tasks)) @ ranks  # [tasks, resamples]
        drawn = [(self._drawn[task] * len(tasks)).astype(np.int64) for task in tasks]
        return self._interval(np.mean(np.take_along_axis(means, np.array(drawn), 0), axis=0), rank)

    def _interval(self, resampled: Array, point: float) -> Interval:
        """Return the percentile interval; it reaches the point, from which ranks only move inwards.

        Of methods that are equal one is first by chance; drawn anew, it is so less often.
        """
        tail = (1 - self._level) / 2
        low, high = np.quantile(np.round(resampled, _DIGITS), [tail, 1 - tail])
        return Interval(min(float(low), point), max(float(high), point))


def performance_profile(
    costs: ArrayLike, ratios: ArrayLike, weights: ArrayLike | None = None
) -> Array:
    """Return the performance profile of each method (Dolan and Moré 2002).

    Args:
        costs: [methods, problems], not negative, less is better; inf or NaN where the method missed
            the problem's target. A problem that every method missed counts for none.
        ratios: [r] factors >= 1 of the best method's cost on a problem.
        weights: [problems] of each problem; None: all the same.

    Returns:
        [methods, r]: the share of problems on which the method's cost is at most the ratio times
        the best method's.

    Raises:
        ValueError: not a matrix with a problem, or a cost that is negative.
    """
    given = np.asarray(costs, dtype=np.float64)
    if given.ndim != 2 or given.size == 0:
        raise ValueError(f"costs must be [methods, problems], not of shape {given.shape}")
    given = np.where(np.isnan(given), np.inf, given)
    if (given < 0).any():
        raise ValueError("costs must not be negative; a profile compares their ratios")
    best = given.min(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(np.isfinite(given), given / best, np.inf)
    relative[given == best] = 1.0  # also where the best has no error at all
    relative[~np.isfinite(given)] = np.inf
    within = relative[:, :, None] <= np.asarray(ratios, dtype=np.float64)
    counts = np.ones(given.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    return np.asarray(np.average(within, axis=1, weights=counts))
