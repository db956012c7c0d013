"""What tuning's choice of a setting is worth: chance in it, and what it does to a comparison.

All take the scores of one optimizer's trials, ``[k, s]``: k settings by s tuning seeds, larger is
better, NaN where a run diverged. A setting's score is its mean over the seeds; one of which a run
diverged is below all others, whatever seeds are drawn. Of equal scores the first setting wins.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.stats import NO_INTERVAL, Interval, check_level

Array = NDArray[np.float64]
_REDRAWS = 4000
_ENUMERATED = 5  # seeds of which every resample is counted: 5^5 = 3125


def setting_scores(scores: Array) -> Array:
    """Return the score of each setting ``[k]``; -inf where a seed of it diverged."""
    return np.asarray(_whole(scores).mean(axis=1))


def _whole(scores: Array) -> Array:
    """Return ``scores`` with -inf for each run of a setting of which one diverged."""
    return np.where(np.isnan(scores).any(axis=1, keepdims=True), -np.inf, scores)


def winner(scores: Array) -> int:
    """Return which setting has the best score."""
    return int(np.argmax(setting_scores(scores)))


# -- best of k ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BestOfK:
    """The best score among k of n trials that are drawn at random, for k = 1 to n.

    Attributes:
        mean: its expectation ``[n]``, over draws in which a trial did not diverge.
        low, high: its quantiles 0.1 and 0.9 ``[n]``, over the same draws.
        lost: the probability that all of k diverged ``[n]``.
    """

    mean: Array
    low: Array
    high: Array
    lost: Array


def best_of_k(scores: Array, *, replace: bool = False) -> BestOfK:
    """Return how good the best of k trials is to be expected, exactly, by order statistics.

    Of n sorted scores x_1 <= ... <= x_n, the best of k is at most x_i with probability
    C(i, k) / C(n, k) where the k are different trials. With ``replace`` it is (i / n)^k: the
    formula of Dodge et al. (2019, "Show Your Work", section 3), for draws from the distribution of
    scores of which these are a sample. What a search decided by earlier scores counts as drawn like
    the others.

    Args:
        scores: ``[n, s]``.
        replace: whether a trial may be drawn more than once.

    Raises:
        ValueError: there is no trial.
    """
    ordered = np.sort(setting_scores(scores))
    count = len(ordered)
    if count == 0:
        raise ValueError("no trial to draw from")
    rank, size = np.arange(count + 1.0), np.arange(1.0, count + 1)[:, None]
    if replace:
        at_most = (rank / count) ** size
    else:  # rounded to no more than the binomials' own digits
        at_most = special.binom(rank, size) * (rank >= size) / special.binom(count, size)
    share = np.diff(at_most, axis=1)  # [k, n]: probability that x_i is the best
    good = np.isfinite(ordered)
    lost = share[:, ~good].sum(axis=1)
    share, ordered = share[:, good], ordered[good]
    if not len(ordered):
        nothing = np.full(count, np.nan)
        return BestOfK(nothing, nothing, nothing, lost)
    whole = share.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = share / np.where(whole > 0, whole, np.nan)[:, None]
    reached = np.cumsum(share, axis=1)
    low, high = (
        np.where(np.isnan(reached[:, -1]), np.nan, ordered[_first(reached, level)])
        for level in (0.1, 0.9)
    )
    return BestOfK(share @ ordered, low, high, lost)


def _first(reached: Array, level: float) -> NDArray[np.intp]:
    """Return the first place of each row at which a cumulative share is ``level``."""
    return np.asarray(np.argmax(reached >= level - 1e-12, axis=1))  # up to rounding


# -- how often the same setting is selected -------------------------------------------------------


def selections(
    scores: Array, *, noise: float | None = None, redraws: int = _REDRAWS, seed: int = 0
) -> NDArray[np.intp]:
    """Return the setting that wins each time that the trials are made again ``[redraws]``.

    Without ``noise`` tuning seeds are drawn with replacement, the same for all settings, since a
    seed's runs share weights and data order. Up to five seeds every draw is counted instead, once.
    So few seeds vary less than new ones would, by a factor of sqrt(1 - 1 / s).

    Args:
        scores: ``[k, s]``.
        noise: the standard deviation of one run's score; each score is then its own plus so much
            normal noise. It is what one seed needs.
        redraws: how many.
        seed: of the draws.

    Raises:
        ValueError: one seed and no noise.
    """
    k, s = scores.shape
    if noise is not None:
        spread = noise * np.random.default_rng(seed).standard_normal((redraws, k, s))
        drawn = (_whole(scores) + spread).mean(axis=2)
    elif s == 1:
        raise ValueError("one tuning seed does not say how scores vary; give the noise of a run")
    else:
        if s <= _ENUMERATED:
            seeds = np.array(list(itertools.product(range(s), repeat=s)))
        else:
            seeds = np.random.default_rng(seed).integers(0, s, (redraws, s))
        drawn = _whole(scores).T[seeds].mean(axis=1)
    return np.asarray(np.argmax(drawn, axis=1))


def frequencies(chosen: NDArray[np.intp], k: int) -> Array:
    """Return the share of `selections` in which each of ``k`` settings won."""
    return np.bincount(chosen, minlength=k) / len(chosen)


def run_noise(values: Array) -> float:
    """Return the standard deviation of one run beside what its seed shares with other methods.

    The median over pairs of methods of the standard deviation of their differences by seed, over
    sqrt(2).

    Args:
        values: ``[methods, seeds]``; NaN where there is no run.

    Returns:
        NaN where no two methods have two seeds in common.
    """
    spreads = []
    for one, other in itertools.combinations(values, 2):
        differences = one - other
        differences = differences[np.isfinite(differences)]
        if len(differences) > 1:
            spreads.append(float(differences.std(ddof=1)))
    return float(np.median(spreads)) / math.sqrt(2) if spreads else math.nan


# -- where the best lies --------------------------------------------------------------------------


def edges(settings: Array, best: int) -> list[int]:
    """Return for each parameter of ``settings [k, d]`` -1 where the best has the lowest value.

    1 where it has the highest, 0 where it lies between, or all have the same.
    """
    own, low, high = settings[best], settings.min(axis=0), settings.max(axis=0)
    return [int(side) for side in (own == high).astype(int) - (own == low).astype(int)]


def neighbours(settings: Array, best: int) -> list[tuple[int | None, int | None]]:
    """Return for each parameter the settings next to the best, below and above it.

    Next is the nearest of those that differ from the best in this parameter at least as much as in
    any other, in widths of what was tried (logarithms where all are positive). None where there is
    none.

    Args:
        settings: ``[k, d]``.
        best: which of them.
    """
    positive = (settings > 0).all(axis=0)
    at = np.where(positive, np.log(np.where(positive, settings, 1.0)), settings)
    width = np.ptp(at, axis=0)
    away = (at - at[best]) / np.where(width > 0, width, 1.0)
    far = np.linalg.norm(away, axis=1)
    mainly = np.abs(away) >= np.abs(away).max(axis=1, initial=0, keepdims=True) * (1 - 1e-9)
    beside = []
    for index in range(settings.shape[1]):
        sides = []
        for side in (-1, 1):
            there = np.flatnonzero(mainly[:, index] & (side * away[:, index] > 0))
            sides.append(int(there[np.argmin(far[there])]) if len(there) else None)
        beside.append((sides[0], sides[1]))
    return beside


# -- the interval of a tuned method ---------------------------------------------------------------


@dataclass(frozen=True)
class Tuned:
    """A method as it was tuned and reported.

    Attributes:
        scores: of its trials ``[k, s]``.
        reports: the reported number of each setting by report seed ``[k, n]``; a row of NaN where
            the setting was never run at the report's length. Larger is better.
        beside: the reported quantity on the validation split (val/loss for test/loss), of the same
            trials ``[k, s]``, larger is better. None: the scores are of it; NaN: not known.
    """

    scores: Array
    reports: Array
    beside: Array | None = None

    @property
    def unreported(self) -> NDArray[np.bool_]:
        """Which settings were never reported ``[k]``."""
        return np.asarray(np.isnan(self.reports).all(axis=1))

    def completed(self) -> Array:
        """Return ``reports`` with rows for settings that were never reported, where they can be.

        Such a row is the winner's, changed by how far the setting's trials lie from the winner's:
        the difference on the validation split at the tuning's length is taken for the difference
        in the report. Where scores are of the reported quantity, the winner's is the highest of k,
        hence a little lucky: the differences, and with them the interval, are rather too wide than
        too narrow.
        """
        best, lacking = winner(self.scores), self.unreported
        trials = setting_scores(self.scores if self.beside is None else self.beside)
        with np.errstate(invalid="ignore"):
            apart = trials - trials[best]
        guessed = self.reports[best] + np.where(np.isfinite(apart), apart, np.nan)[:, None]
        return np.where(lacking[:, None], guessed, self.reports)


@dataclass(frozen=True)
class TunedInterval:
    """The interval of method minus baseline, both as tuned, and how much of it is approximate.

    ``approximate``: the share of resamples in which a setting stood that was never reported.
    """

    interval: Interval
    approximate: float


def tuned_interval(
    method: Tuned, baseline: Tuned, *, noise: float | None = None, level: float = 0.95,
    resamples: int = 9999, seed: int = 0,
) -> TunedInterval:  # fmt: skip
    """Return the interval of the mean difference of two tuned methods, tuning's chance included.

    Bootstrap over tuning seeds and over report seeds: each time both methods are tuned on the same
    redrawn seeds (`selections`), and the settings that win are compared, paired, over redrawn
    report seeds. Its tails are widened as those of `analysis.stats.bca_interval`, for the number of
    report seeds. Only report seeds that both winners have count.

    Args:
        method: as tuned.
        baseline: as tuned; its report seeds are in the method's order.
        noise: as for `selections`.
        level: confidence level.
        resamples: of the bootstrap.
        seed: of the draws.

    Returns:
        NaN ends where it is impossible: fewer than two report seeds in common, one tuning seed
        without ``noise``, or a setting that may be selected has no number in the report and none
        can stand for it.

    Raises:
        ValueError: a level outside (0, 1), or reports of different seeds.
    """
    check_level(level)
    if method.reports.shape[1] != baseline.reports.shape[1]:
        raise ValueError("the two have reports of different seeds")
    both = (method, baseline)
    reports = [one.completed() for one in both]
    winners = [table[winner(one.scores)] for table, one in zip(reports, both, strict=True)]
    common = np.isfinite(winners).all(axis=0)
    n = int(common.sum())
    if n < 2 or (noise is None and min(one.scores.shape[1] for one in both) == 1):
        return TunedInterval(NO_INTERVAL, math.nan)
    rng = np.random.default_rng(seed)
    chosen = _chosen_together(both, noise, resamples, rng)
    seeds = rng.integers(0, n, (resamples, n))
    first, second = (
        table[:, common][setting[:, None], seeds].mean(axis=1)
        for table, setting in zip(reports, chosen, strict=True)
    )
    never = [one.unreported for one in both]
    approximate = float(np.mean(never[0][chosen[0]] | never[1][chosen[1]]))
    if not np.isfinite(first - second).all():
        return TunedInterval(NO_INTERVAL, approximate)
    tail = float(special.stdtrit(n - 1, (1 + level) / 2)) * math.sqrt(n / (n - 1))
    low, high = np.quantile(first - second, special.ndtr([-tail, tail]))
    return TunedInterval(Interval(float(low), float(high)), approximate)


def _chosen_together(
    both: tuple[Tuned, Tuned], noise: float | None, resamples: int, rng: np.random.Generator
) -> list[NDArray[np.intp]]:
    """Return the settings that win for each of the two, tuned on the same redrawn seeds."""
    drawn = [
        # Noise is each one's own; without it the same seed draws the same tuning seeds.
        selections(one.scores, noise=noise, redraws=resamples, seed=0 if noise is None else place)
        for place, one in enumerate(both)
    ]
    if len(drawn[0]) != len(drawn[1]):
        raise ValueError("the two were tuned on different numbers of seeds")
    which = rng.integers(0, len(drawn[0]), resamples)
    return [one[which] for one in drawn]


# -- settings carried over from smaller runs ------------------------------------------------------


@dataclass(frozen=True)
class Transfer:
    """What was lost by choosing at a shorter length: scores are those at the longer one.

    Attributes:
        short, long: which setting is best at each length.
        loss: score of ``long`` minus score of ``short``; NaN where ``short`` was not tried, or
            diverged, at the longer length.
    """

    short: int
    long: int
    loss: float


def transfer(short: Array, long: Array) -> Transfer:
    """Return the error of choosing by ``short`` for runs as long as ``long``.

    Args:
        short: scores of the settings at the shorter length ``[k]``, NaN where there is no trial.
        long: those at the longer length.

    Raises:
        ValueError: no setting has a score at one of the lengths.
    """
    if np.isnan(short).all() or np.isnan(long).all():
        raise ValueError("no setting has a score at both lengths")
    chosen, best = int(np.nanargmax(short)), int(np.nanargmax(long))
    return Transfer(chosen, best, float(long[best] - long[chosen]))
