"""Better, worse, equivalent or undecided: the verdicts of one section, judged as one family.

A section's comparisons are method minus other, paired by seed. All are tested together
(`analysis.judge.family`). With a margin, the smallest difference that matters, each comparison
also tests that its difference is the margin, or minus the margin; where both are refused from
within, the methods are equivalent (two one-sided tests, Schuirmann 1987). At most one of the three
statements is true, and all are in the same family.

Primary comparisons, where a study has registered some, are a family of their own and come first,
then its secondary ones, then what nobody registered. They share the level by the fallback procedure
(Wiens 2003): `SHARES` of it, and a family in which every difference is shown passes its own share
on to the next. So a false verdict anywhere in the section has the probability ``level`` at most.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from analysis.judge import family
from analysis.judge.family import Array, Differences
from analysis.stats import NO_INTERVAL, Interval, check_level, mean, t_interval
from bench.registration import SHARES, Badge

Verdict = Literal["better", "worse", "equivalent", "undecided"]
VERDICTS: tuple[Verdict, ...] = ("better", "worse", "equivalent", "undecided")

Pair = tuple[str, str]  # method, other: of optimizers, or of rows' labels
# One row's numbers at one dataset and model: seed -> number, None for a run that diverged.
Seeds = Mapping[int, float | None]


@dataclass(frozen=True)
class Comparison:
    """One method against another: ``difference`` is the mean over ``n`` paired seeds.

    ``interval`` is Student's at 1 - level and not corrected; ``p`` is of this comparison alone;
    ``adjusted_p`` and ``equivalence_p`` are the family's, times the interim analyses;
    ``equivalence_p`` is NaN without a margin. ``verdict`` follows from the two. ``badge`` is None
    where nobody asked whether it was registered.
    """

    difference: float
    interval: Interval
    n: int
    p: float
    adjusted_p: float
    verdict: Verdict
    equivalence_p: float = math.nan
    badge: Badge | None = None

    @property
    def decisive_p(self) -> float:
        """The p that the verdict rests on: that of equivalence where it is the verdict."""
        return self.equivalence_p if self.verdict == "equivalent" else self.adjusted_p


@dataclass(frozen=True)
class Rules:
    """How a section is judged.

    Attributes:
        level: the probability of any false verdict in the section.
        looks: how many interim analyses there were, this one counted: who adds seeds until a
            difference shows finds one more often than ``level``. Bonferroni's bound: p is
            multiplied by it.
        margin: the smallest difference that matters, in the metric's unit; without one nothing is
            ever equivalent.

    Raises ValueError on a level outside (0, 1), a margin that is not positive, or no analysis.
    """

    level: float = 0.05
    looks: int = 1
    margin: float | None = None

    def __post_init__(self) -> None:
        check_level(self.level)
        if self.looks < 1:
            raise ValueError(f"looks={self.looks}: this one counts; it is at least 1")
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise ValueError(f"margin={self.margin:g}: give the smallest difference that matters")


def judge(
    comparisons: Sequence[Differences],
    rules: Rules,
    *,
    higher_is_better: bool = True,
    tiers: Sequence[int] = (),
    closed: Collection[int] = (),
) -> list[Comparison]:
    """Judge all comparisons of one section.

    Args:
        comparisons: for each its differences by seed; with one or none it is not tested.
        rules: level, interim analyses and margin.
        higher_is_better: the direction of the metric.
        tiers: of each comparison 0 (primary), 1 (secondary) or 2, a family each; none given: all
            are one family.
        closed: tiers that pass nothing on, since some of their comparisons are not there yet.

    Raises:
        ValueError: a difference that is infinite.
    """
    sign = 1.0 if higher_is_better else -1.0
    tiers = tiers or [2] * len(comparisons)
    shares = SHARES if min(tiers, default=2) < 2 else (1.0,) * len(SHARES)
    results: dict[int, Comparison] = {}
    before: list[tuple[float, float]] = []  # the share of each family, and its largest p
    for tier in sorted(set(tiers)):
        members = [index for index, its in enumerate(tiers) if its == tier]
        family_p = _family([comparisons[index] for index in members], rules)
        passed = _passed_on(shares[tier], before)
        judged = [_decided(one, passed, sign, rules.level) for one in family_p]
        results |= dict(zip(members, judged, strict=True))
        largest = max(_known(one.adjusted_p) for one in family_p)
        before.append((shares[tier], math.inf if tier in closed else largest))
    return [results[index] for index in range(len(comparisons))]


def _passed_on(share: float, before: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return by which parts of the level a family may be judged, each with the p that it costs.

    The part is its own share, and those of the families just before it as long as all their
    differences are shown at what they got themselves.
    """
    parts = [(share, 0.0)]
    for start in range(len(before)):
        got, cost = 0.0, 0.0
        for its, largest in before[start:]:
            got += its
            cost = max(cost, largest / got)
        parts.append((got + share, cost))
    return parts


def _decided(
    one: Comparison, parts: Sequence[tuple[float, float]], sign: float, level: float
) -> Comparison:
    """Return the comparison with the p of its section, given its family's, and its verdict."""
    adjusted, equivalence = (
        min(1.0, *(max(p / part, cost) for part, cost in parts)) if not math.isnan(p) else p
        for p in (one.adjusted_p, one.equivalence_p)
    )
    one = replace(one, adjusted_p=adjusted, equivalence_p=equivalence)
    return replace(one, verdict=_verdict(one, sign, level))


def _family(comparisons: Sequence[Differences], rules: Rules) -> list[Comparison]:
    """Return the comparisons of one family, still without verdicts."""
    data = family.matrix(comparisons)
    margin = rules.margin
    columns = [data] if margin is None else [data, data - margin, data + margin]
    p = family.p_values(np.concatenate(columns, axis=1))
    adjusted = np.minimum(1.0, rules.looks * p.adjusted).reshape(len(columns), -1)
    equivalence = np.full(data.shape[1], math.nan)
    if margin is not None:
        equivalence = np.where(_inside(data, margin), adjusted[1:].max(axis=0), 1.0)
    made = []
    for k, values in enumerate(comparisons):
        one = _untested(values)
        if one.n > 1:
            interval = t_interval([*values.values()], 1 - rules.level)
            one = replace(
                one, interval=interval, p=float(p.alone[k]), adjusted_p=float(adjusted[0, k]),
                equivalence_p=float(equivalence[k]),
            )  # fmt: skip
        made.append(one)
    return made


def _inside(data: Array, margin: float) -> Array:
    """Return which mean differences [k] lie within the margin."""
    counts = np.maximum(np.sum(~np.isnan(data), axis=0), 1)
    return np.asarray(np.abs(np.nansum(data, axis=0) / counts) < margin)


def _untested(values: Differences) -> Comparison:
    centre = mean([values[seed] for seed in sorted(values)]) if values else math.nan
    return Comparison(centre, NO_INTERVAL, len(values), math.nan, math.nan, "undecided")


def _verdict(one: Comparison, sign: float, level: float) -> Verdict:
    if one.equivalence_p <= level:  # also where a difference is certain, and smaller than matters
        return "equivalent"
    if one.adjusted_p <= level and one.difference != 0:
        return "better" if sign * one.difference > 0 else "worse"
    return "undecided"


def _known(p: float) -> float:
    return 1.0 if math.isnan(p) else p


def paired(row: Seeds, other: Seeds) -> dict[int, float]:
    """Return the differences row - other by seed, of the seeds that both finished."""
    both = {seed: (row[seed], other[seed]) for seed in sorted(row.keys() & other.keys())}
    return {seed: a - b for seed, (a, b) in both.items() if a is not None and b is not None}


def without_luck(comparison: Comparison, row: Seeds, other: Seeds) -> Comparison:
    """Take back a verdict that rests on the seeds that did not diverge.

    A row that diverged on a seed on which the other did not is never better, nor equivalent: the
    pairs that are left are its lucky ones. The reverse holds for worse.
    """
    lost = any(number is None and other.get(seed) is not None for seed, number in row.items())
    other_lost = any(number is None and row.get(seed) is not None for seed, number in other.items())
    flattered = (lost and comparison.verdict in ("better", "equivalent")) or (
        other_lost and comparison.verdict in ("worse", "equivalent")
    )
    return replace(comparison, verdict="undecided") if flattered else comparison
