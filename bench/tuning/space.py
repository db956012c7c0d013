"""Which trials a search makes: a pure function of the scores so far.

The first trials cover the declared ranges. Each later one is decided by the scores of those before
it: where the best lies at an edge of what was tried, the range is extended by one step beyond it;
otherwise the gap beside the best is halved, on the side of the better neighbour. Every search makes
the same number of trials, whichever of the two its later ones were.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, ...]  # a value for each parameter
Scores = Mapping[Point, float]  # larger is better; -inf for a trial that diverged
Method = Literal["grid", "halton"]
Place = Literal["interior", "low edge", "high edge"]

_DIGITS = 4  # significant ones of a value: what a person would type


@dataclass(frozen=True)
class Range:
    """The range in which a parameter's first trials lie.

    Attributes:
        low, high: its ends, themselves tried by a grid.
        log: whether equal ratios are equal steps, rather than equal differences.
        extend: whether trials may go beyond the ends.
    """

    low: float
    high: float
    log: bool = True
    extend: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low={self.low:g} must be below high={self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low:g} must be positive; or give log: false")

    def coordinate(self, value: float) -> float:
        """Return where ``value`` lies: 0 at low, 1 at high."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value(self, coordinate: float) -> float:
        """Return the value at ``coordinate``, to four significant digits."""
        if self.log:
            exact = self.low * (self.high / self.low) ** coordinate
        else:
            exact = self.low + coordinate * (self.high - self.low)
        return float(f"{exact:.{_DIGITS}g}")


@dataclass(frozen=True)
class Search:
    """The search for one optimizer's settings.

    Attributes:
        ranges: one a parameter.
        trials: how many points are tried in all.
        extension: how many of these are decided by the scores of those before.
        method: of the first ones: "grid", every combination of evenly spaced values, both ends
            included; "halton", quasi-random points (scipy.stats.qmc.Halton, not scrambled).

    Raises ValueError where there are no such trials.
    """

    ranges: tuple[Range, ...]
    trials: int
    extension: int
    method: Method = "grid"

    def __post_init__(self) -> None:
        if not self.ranges:
            raise ValueError("no parameter to search; give at least one range")
        if not 0 <= self.extension <= self.trials - 2:
            raise ValueError(
                f"trials={self.trials}, extension={self.extension}: at least 2 trials must be "
                "left for the first round"
            )
        if self.method == "grid" and self._side ** len(self.ranges) != self.covering:
            raise ValueError(
                f"{self.covering} trials are no grid of {len(self.ranges)} parameters; "
                "change trials or extension, or use method: halton"
            )

    @property
    def covering(self) -> int:
        """How many trials cover the ranges, before any score is known."""
        return self.trials - self.extension

    @property
    def _side(self) -> int:
        return round(math.pow(self.covering, 1 / len(self.ranges)))

    def first(self) -> list[Point]:
        """Return the trials that cover the ranges."""
        count = len(self.ranges)
        if self.method == "halton":  # without its first point, the corner of all the lows
            from scipy.stats import qmc  # here: importing it takes most of a second

            unit = qmc.Halton(d=count, scramble=False).random(self.covering + 1)[1:].tolist()
        else:
            ticks = [index / (self._side - 1) for index in range(self._side)]
            unit = [list(point) for point in itertools.product(ticks, repeat=count)]
        return [self._point(coordinates) for coordinates in unit]

    def asked(self, scores: Scores) -> list[Point]:
        """Return the trials that are asked for, in order, as far as ``scores`` decide them.

        It is complete once it has ``trials`` points that all have a score.
        """
        points = self.first()
        while len(points) < self.trials and all(point in scores for point in points):
            points.append(self._next({point: scores[point] for point in points}))
        return points

    def best(self, scores: Scores) -> Point:
        """Return the point of the highest score; of equals that of the smallest values."""
        return min(scores, key=lambda point: (-scores[point], point))

    def place(self, scores: Scores) -> Place:
        """Return whether the best lies inside what was tried, in every parameter."""
        edges = self._edges(scores, fixed_too=True)
        if not edges:
            return "interior"
        return "low edge" if min(edges.values()) < 0 else "high edge"

    # -- the next trial -------------------------------------------------------------------------

    def _next(self, scores: Scores) -> Point:
        best = self._coordinates(self.best(scores))
        edges = self._edges(scores)
        if edges:
            return self._point(
                [at + edges.get(index, 0) * self._step for index, at in enumerate(best)]
            )
        done = len(scores) - self.covering
        for offset in range(len(self.ranges)):  # each parameter in turn
            for point in self._halvings(scores, (done + offset) % len(self.ranges)):
                if point not in scores:
                    return point
        raise ValueError(f"nothing is left to try after {len(scores)} trials; ask for fewer")

    @property
    def _step(self) -> float:
        """Coordinates from one first trial to the next."""
        if self.method == "grid":
            return 1 / (self._side - 1)
        return 1 / max(1.0, math.pow(self.covering, 1 / len(self.ranges)) - 1)

    def _edges(self, scores: Scores, *, fixed_too: bool = False) -> dict[int, int]:
        """Return the parameters in which the best is the lowest tried (-1) or the highest (1)."""
        best = self.best(scores)
        found: dict[int, int] = {}
        for index, its in enumerate(self.ranges):
            tried = [point[index] for point in scores]
            if its.extend or fixed_too:
                side = (best[index] == max(tried)) - (best[index] == min(tried))
                found |= {index: side} if side else {}
        return found

    def _halvings(self, scores: Scores, index: int) -> list[Point]:
        """Return the middles of the gaps beside the best in one parameter, the better side first.

        A side is as good as the best score at its nearest value.
        """
        best = self.best(scores)
        sides = []
        for nearest in (
            max((point[index] for point in scores if point[index] < best[index]), default=None),
            min((point[index] for point in scores if point[index] > best[index]), default=None),
        ):
            if nearest is not None:
                score = max(scores[point] for point in scores if point[index] == nearest)
                middle = list(self._coordinates(best))
                middle[index] = (middle[index] + self.ranges[index].coordinate(nearest)) / 2
                sides.append((score, self._point(middle)))
        return [point for _, point in sorted(sides, key=lambda side: -side[0])]

    def _coordinates(self, point: Point) -> list[float]:
        return [its.coordinate(value) for its, value in zip(self.ranges, point, strict=True)]

    def _point(self, coordinates: Sequence[float]) -> Point:
        return tuple(its.value(at) for its, at in zip(self.ranges, coordinates, strict=True))
