"""The comparisons of one section of rows and columns: which there are, and what they say.

A section is what is printed together: every row against each baseline, the contrasts that a study
asks for, and what it has registered, at every dataset and model. All are one family
(`analysis.judge.verdicts`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from analysis.judge.family import EXACT, FLIPS, least_p
from analysis.judge.verdicts import (
    Comparison,
    Pair,
    Rules,
    Seeds,
    judge,
    paired,
    without_luck,
)
from bench.registration import SHARES, Badge

Run = Mapping[str, Any]  # a row of the runs' frame


@dataclass(frozen=True)
class Plan(Rules):
    """How a section is judged, and which pairs of optimizers are compared besides the baselines.

    Attributes:
        primary: registered pairs that come first.
        secondary: registered pairs that come next.
        contrasts: the others.
        badge: returns whether a pair's comparison was registered, given the runs of both rows;
            None where nobody asks.
        registered: which registration holds; empty where there is none.
    """

    primary: tuple[Pair, ...] = ()
    secondary: tuple[Pair, ...] = ()
    contrasts: tuple[Pair, ...] = ()
    badge: Callable[[Pair, Sequence[Run], Sequence[Run]], Badge] | None = None
    registered: str = ""

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All pairs, primary ones first, each once."""
        return tuple(dict.fromkeys((*self.primary, *self.secondary, *self.contrasts)))

    def tier(self, pair: Pair) -> int:
        """Return 0 for a primary pair, 1 for a secondary one, 2 for another."""
        registered = (self.primary, self.secondary)
        return next(
            (k for k, pairs in enumerate(registered) if set(pair) in map(set, pairs)),
            len(registered),
        )


NO_PLAN = Plan()


@dataclass(frozen=True)
class Asked:
    """Rows ``method`` and ``other`` in column ``column``, by baseline or as a pair by itself."""

    column: int
    method: str
    other: str
    contrast: bool = False
    tier: int = field(default=2, compare=False)


@dataclass(frozen=True)
class Missing:
    """A pair of optimizers that is not compared: ``lacking`` has no run, or ``several`` rows."""

    method: str
    other: str
    lacking: str
    several: bool


@dataclass(frozen=True)
class Section:
    """``comparisons`` of all that were asked, and ``missing`` pairs."""

    comparisons: Mapping[Asked, Comparison]
    missing: tuple[Missing, ...]

    def against(self, label: str, other: str, column: int) -> Comparison | None:
        """Return the comparison of row ``label`` with the baseline ``other``; None for itself."""
        return self.comparisons.get(Asked(column, label, other))

    @property
    def contrasts(self) -> dict[Asked, Comparison]:
        """The comparisons asked for pair by pair."""
        return {asked: one for asked, one in self.comparisons.items() if asked.contrast}


def judged(
    labels: Sequence[str],
    cells: Sequence[Sequence[Sequence[Run]]],
    numbers: Sequence[Sequence[Seeds]],
    plan: Plan,
    *,
    baselines: Sequence[str] = (),
    direction: int,
) -> Section:
    """Judge a section of rows ``labels`` and columns.

    Args:
        labels: one a row; its first word is the optimizer.
        cells: ``cells[row][column]``: the runs that have a number, or diverged.
        numbers: ``numbers[row][column]``: their numbers by seed.
        plan: level, margin, pairs.
        baselines: labels of rows that every other is compared with.
        direction: 1 where larger is better, -1 where smaller is.
    """
    columns = range(len(numbers[0]) if numbers else 0)
    index = {label: i for i, label in enumerate(labels)}
    asked = [
        Asked(j, label, base, tier=plan.tier((optimizer_of(label), optimizer_of(base))))
        for base in baselines for label in labels if label != base for j in columns
    ]  # fmt: skip
    pairs, missing = _pairs(labels, numbers, plan)
    asked += pairs
    places = [((index[one.method], one.column), (index[one.other], one.column)) for one in asked]
    both = [(numbers[i][j], numbers[k][j]) for (i, j), (k, _) in places]
    badges = [
        _badge(plan, one, cells[i][j], cells[k][j])
        for one, ((i, j), (k, _)) in zip(asked, places, strict=True)
    ]
    # No verdict before a registered comparison has its last seed.
    waiting = [badge is not None and badge.registered and not badge.complete for badge in badges]
    lost = [None in row.values() or None in other.values() for row, other in both]
    closed = {
        one.tier for k, one in enumerate(asked) if waiting[k] or lost[k]
    }  # what is then not said must not pass for shown
    closed |= {plan.tier((one.method, one.other)) for one in missing}
    results = judge(
        [paired(row, other) for row, other in both],
        plan, higher_is_better=direction > 0, tiers=[one.tier for one in asked], closed=closed,
    )  # fmt: skip
    comparisons = {}
    for k, (one, result) in enumerate(zip(asked, results, strict=True)):
        kept = without_luck(result, *both[k])
        verdict = "undecided" if waiting[k] else kept.verdict
        comparisons[one] = replace(kept, badge=badges[k], verdict=verdict)
    return Section(comparisons, tuple(missing))


def _badge(plan: Plan, one: Asked, runs: Sequence[Run], others: Sequence[Run]) -> Badge | None:
    if plan.badge is None:
        return None
    badge = plan.badge((optimizer_of(one.method), optimizer_of(one.other)), runs, others)
    several = [name for name in (one.method, one.other) if optimizer_of(name) != name]
    reasons = tuple(f"{name} is one of several settings" for name in several)
    return replace(badge, reasons=(*badge.reasons, *reasons))


def optimizer_of(label: str) -> str:
    """Return the optimizer of a row's label, "adamw" of "adamw lr=0.01"."""
    return label.split(" ", maxsplit=1)[0]


def _pairs(
    labels: Sequence[str], numbers: Sequence[Sequence[Seeds]], plan: Plan
) -> tuple[list[Asked], list[Missing]]:
    """Return the pairs asked by name, primary ones first, wherever both have numbers."""
    pairs: list[Asked] = []
    missing: list[Missing] = []
    for j in range(len(numbers[0]) if numbers else 0):
        rows: dict[str, list[str]] = {}
        for label, line in zip(labels, numbers, strict=True):
            if line[j]:
                rows.setdefault(optimizer_of(label), []).append(label)
        for pair in plan.pairs:
            lacking = [name for name in pair if len(rows.get(name, [])) != 1]
            if lacking:
                missing.append(Missing(*pair, lacking[0], lacking[0] in rows))
            else:
                own, its = (rows[name][0] for name in pair)
                pairs.append(Asked(j, own, its, contrast=True, tier=plan.tier(pair)))
    return pairs, list(dict.fromkeys(missing))


def check_baseline(name: str, labels: Sequence[str]) -> None:
    """Raise ValueError unless a row is called ``name``; one line that names the nearest."""
    if name in labels:
        return
    close = get_close_matches(name, labels, n=1)
    near = [label for label in labels if label.startswith(f"{name} ")] or list(labels)
    more = ", ..." if len(near) > 5 else ""
    hint = f"rows here: {', '.join(near[:5])}{more}"
    hint = f"the nearest is {close[0]!r}" if close else hint
    raise ValueError(f"no row {name!r} to be the baseline; {hint}")


def notes(section: Section, plan: Plan) -> list[str]:
    """Return how the section was judged, in sentences: a first one, and more."""
    every = _distinct(section)
    tested = {asked: one for asked, one in every.items() if one.n > 1}
    looked = ""
    if plan.looks > 1:
        looked = f", times {plan.looks} interim analyses (seeds were added to results already seen)"
    lines = [
        f"mean difference paired by seed [{100 * (1 - plan.level):g} % interval, not corrected];"
        f" verdict by step-down max-T sign flips over {_families(tested)}{looked}, at"
        f" {plan.level:g}.",
        _meaning(plan),
    ]
    lines += _few_seeds(list(tested.values()), plan)
    if any(one.n > EXACT for one in tested.values()):
        lines.append(f"Beyond {EXACT} seeds {FLIPS:,} drawn patterns of signs, else all of them.")
    if plan.registered:
        lines.append(f"Registered: {plan.registered}.")
    return [*lines, *_reasons(list(every.values()))]


def _distinct(section: Section) -> dict[Asked, Comparison]:
    """Return each comparison once: two baselines, or a pair asked for besides, repeat some."""
    kept: dict[tuple[int, frozenset[str]], tuple[Asked, Comparison]] = {}
    for asked, one in section.comparisons.items():
        kept.setdefault((asked.column, frozenset((asked.method, asked.other))), (asked, one))
    return dict(kept.values())


def _families(tested: Mapping[Asked, Comparison]) -> str:
    """Return how many comparisons each family has; a pair printed twice is one."""
    pairs = {(one.column, frozenset((one.method, one.other))): one.tier for one in tested}
    counts = Counter(pairs.values())
    if set(counts) <= {2}:
        return f"{_count(len(pairs))} of this section"
    names = ("primary ", "secondary ", "further ")
    shares = [
        f"{_count(counts[tier], names[tier])} ({100 * SHARES[tier]:g} % of the level)"
        for tier in sorted(counts)
    ]
    return (
        f"{', '.join(shares)}, a family passing its part on where each of its differences is shown"
    )


def _meaning(plan: Plan) -> str:
    undecided = "undecided: neither shown, which is evidence of nothing"
    if plan.margin is None:
        return f"{undecided}. No margin was declared, so nothing is called equivalent."
    return f"equivalent: the difference is below the margin of {plan.margin:g}; {undecided}."


def _few_seeds(tested: Sequence[Comparison], plan: Plan) -> list[str]:
    """Return a note where so few seeds can give no verdict, whatever they say."""
    times = plan.looks / (SHARES[0] if plan.primary else 1.0)  # the most that any family has
    few = [one.n for one in tested if times * least_p(one.n) > plan.level]
    if not few:
        return []
    n = max(few)
    least = min(1.0, times * least_p(n))
    enough = (k for k in range(2, EXACT + 1) if times * least_p(k) <= plan.level)
    return [
        f"{len(few)} of {_count(len(tested))} can have no verdict: with {n} seeds no p is below"
        f" {least:.3g}; {next(enough, 'no number of')} seeds can."
    ]


def _reasons(comparisons: Sequence[Comparison]) -> list[str]:
    """Return why comparisons were found afterwards, each reason once, with how many it is of."""
    counts: dict[str, int] = {}
    for one in comparisons:
        for reason in one.badge.reasons if one.badge else ():
            counts[reason] = counts.get(reason, 0) + 1
    total = len(comparisons)
    some = {count: "" if count == total else f" ({count} of {total})" for count in counts.values()}
    return [f"found afterwards{some[count]}: {reason}." for reason, count in counts.items()]


def _count(number: int, what: str = "") -> str:
    return f"{number} {what}comparison{'' if number == 1 else 's'}"
