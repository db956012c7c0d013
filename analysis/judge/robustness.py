"""Does a comparison say the same however it is asked? Its panel, and what agrees with it.

A panel holds one comparison of a section by every recorded outcome, in halves of its seeds, without
the seed that helps it most, at the settings beside the tuned one, and at other horizons. What a
sentence says of a comparison is composed from it: what agrees everywhere is said plainly, what does
not is said with it (`analysis.page.robust`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.judge.verdicts import Comparison, Rules, Verdict, judge
from analysis.stats import mean

Kind = Literal["outcome", "horizon", "seeds", "settings", "target"]
Agreement = Literal["agrees", "differs", "opposite", "says nothing"]
_FEWEST = 4  # seeds of a half: two halves of fewer say nothing


@dataclass(frozen=True)
class Check:
    """One way to ask again.

    Attributes:
        kind: what is changed.
        name: what it is changed to, such as "test/loss" or "seeds 40-46".
        outcome: the number that is compared.
        better: 1 where the method is ahead, -1 where it is behind, 0 for neither.
        difference: method minus other, in the outcome's unit; NaN where only an order is known.
        verdict: None where nothing is tested.
        p: of the verdict; NaN without one.
    """

    kind: Kind
    name: str
    outcome: str
    better: int
    difference: float = math.nan
    verdict: Verdict | None = None
    p: float = math.nan


@dataclass(frozen=True)
class Panel:
    """A comparison of ``method`` with ``other`` by ``outcome``, and its checks."""

    method: str
    other: str
    outcome: str
    comparison: Comparison
    checks: tuple[Check, ...]

    def agreement(self, check: Check) -> Agreement:
        """Return whether a check says what the comparison says.

        A tested check agrees where its verdict is the same, and is the opposite where one says
        better and the other worse. One that is not tested is asked for its direction alone, as
        parts of the seeds are: fewer of them show less. Where the comparison has none itself, such
        a check says nothing.
        """
        own = self.comparison.verdict
        directed = {"better": 1, "worse": -1}.get(own, 0)
        if check.verdict is None or check.kind == "seeds":
            if directed == 0:
                return "says nothing"
            return {directed: "agrees", -directed: "opposite"}.get(check.better, "differs")  # type: ignore[return-value]
        if check.verdict == own:
            return "agrees"
        return "opposite" if {check.verdict, own} == {"better", "worse"} else "differs"

    def those(self, agreement: Agreement) -> list[Check]:
        """Return the checks of one agreement."""
        return [check for check in self.checks if self.agreement(check) == agreement]


def compared(kind: Kind, name: str, outcome: str, one: Comparison, direction: int) -> Check:
    """Return a comparison of a section as a check; ``direction``: 1 where larger is better."""
    return Check(
        kind, name, outcome, _side(direction * one.difference), one.difference,
        one.verdict if one.n > 1 else None, one.decisive_p,
    )  # fmt: skip


def by_seeds(differences: Mapping[int, float], outcome: str, direction: int) -> list[Check]:
    """Return the comparison in both halves of its seeds, and without its most helpful seed.

    Each is judged alone: these are no verdicts of the section.

    Args:
        differences: by seed, method minus other.
        outcome: what they are of.
        direction: 1 where larger is better, -1 where smaller is.
    """
    seeds = sorted(differences)
    half = len(seeds) // 2
    parts = []
    if half >= _FEWEST:
        parts = [(_span(part), part) for part in (seeds[:half], seeds[half:])]
    if len(seeds) > 2:
        total = mean(list(differences.values()))
        helpful = max(seeds, key=lambda seed: (math.copysign(1, total) * differences[seed], -seed))
        parts.append((f"without seed {helpful}", [one for one in seeds if one != helpful]))
    checks = []
    for name, part in parts:
        (one,) = judge(
            [{seed: differences[seed] for seed in part}], Rules(), higher_is_better=direction > 0
        )
        checks.append(compared("seeds", name, outcome, one, direction))
    return checks


def _span(seeds: Sequence[int]) -> str:
    whole = seeds[-1] - seeds[0] == len(seeds) - 1
    return f"seeds {seeds[0]}-{seeds[-1]}" if whole else f"seeds {', '.join(map(str, seeds))}"


def _side(number: float) -> int:
    return (number > 0) - (number < 0)
