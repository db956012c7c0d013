"""Which settings a search tries: a pure function of the scores so far.

A search makes exactly `trials` trials, whatever path it takes; equal budgets follow. The first ones
cover the declared ranges. Later ones are decided by the scores of those before, of which only the
order counts:

Covering    a grid, or quasi-random points; then one trial at a time. Where the best lies at an edge
            of what was tried, the range is extended by one step beyond it; otherwise the gap beside
            the best is halved, on the side of the better neighbour.
Narrowing   rounds of a few trials in a box, each parameter at as many values as the round has
            trials. The next box is half as wide in each and lies around the best. But where the
            best is the lowest or highest value tried of a parameter, the box moves beyond it
            there, and keeps its widths.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

Point = tuple[float, ...]  # a value for each parameter
Scores = Mapping[Point, float]  # larger is better; -inf for a trial that diverged
Method = Literal["grid", "halton", "narrow"]
Position = Literal["interior", "low edge", "high edge"]

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
class Search(ABC):
    """The search for one optimizer's settings.

    Attributes:
        ranges: one a parameter.
        trials: how many points are tried in all.

    Raises ValueError where there are no such trials.
    """

    ranges: tuple[Range, ...]
    trials: int

    def __post_init__(self) -> None:
        if not self.ranges:
            raise ValueError("no parameter to search; give at least one range")

    @abstractmethod
    def first(self) -> list[Point]:
        """Return the trials that cover the ranges."""

    @abstractmethod
    def following(self, scores: Scores) -> list[Point]:
        """Return the trials that ``scores``, of all those before in their order, decide."""

    def asked(self, scores: Scores) -> list[Point]:
        """Return the trials that are asked for, in order, as far as ``scores`` decide them.

        It is complete once it has ``trials`` points that all have a score.
        """
        points = self.first()
        while len(points) < self.trials and all(point in scores for point in points):
            points += self.following({point: scores[point] for point in points})
        return points

    def best(self, scores: Scores) -> Point:
        """Return the point of the highest score; of equals that of the smallest values."""
        return min(scores, key=lambda point: (-scores[point], point))

    def position(self, scores: Scores) -> Position:
        """Return whether the best lies inside what was tried, in every parameter."""
        edges = self._edges(scores, fixed_too=True)
        if not edges:
            return "interior"
        return "low edge" if min(edges.values()) < 0 else "high edge"

    def _edges(self, scores: Scores, *, fixed_too: bool = False) -> dict[int, int]:
        """Return the parameters in which the best is the lowest tried (-1) or the highest (1)."""
        best = self.best(scores)
        edges: dict[int, int] = {}
        for index, its in enumerate(self.ranges):
            tried = [point[index] for point in scores]
            if its.extend or fixed_too:
                side = (best[index] == max(tried)) - (best[index] == min(tried))
                edges |= {index: side} if side else {}
        return edges

    def _coordinates(self, point: Point) -> list[float]:
        return [its.coordinate(value) for its, value in zip(self.ranges, point, strict=True)]

    def _point(self, coordinates: Sequence[float]) -> Point:
        return tuple(its.value(at) for its, at in zip(self.ranges, coordinates, strict=True))

    @property
    def _exhausted(self) -> str:
        return f"there are no {self.trials} different trials in these ranges; ask for fewer"


@dataclass(frozen=True)
class Covering(Search):
    """Trials that cover the ranges, then one at a time beyond an edge or beside the best.

    Attributes:
        extension: how many of the trials are decided by the scores of those before.
        method: of the first ones: "grid", every combination of evenly spaced values, both ends
            included; "halton", quasi-random points (scipy.stats.qmc.Halton, not scrambled).
    """

    extension: int = 0
    method: Literal["grid", "halton"] = "grid"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.extension <= self.trials - 2:
            raise ValueError(
                f"trials={self.trials}, extension={self.extension}: at least 2 trials must be "
                "left for the first round"
            )
        if self.method == "grid" and self._side ** len(self.ranges) != self.covering:
            raise ValueError(
                f"{self.covering} trials are no grid of {len(self.ranges)} parameters; "
                "change trials or extension, or use method: halton or narrow"
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

    def following(self, scores: Scores) -> list[Point]:
        """Return the one trial that comes next.

        Raises:
            ValueError: nothing is left to try.
        """
        best = self._coordinates(self.best(scores))
        edges = self._edges(scores)
        if edges:
            beyond = [at + edges.get(index, 0) * self._step for index, at in enumerate(best)]
            return [self._point(beyond)]
        done = len(scores) - self.covering
        for offset in range(len(self.ranges)):  # one parameter after the other
            for point in self._halvings(scores, (done + offset) % len(self.ranges)):
                if point not in scores:
                    return [point]
        raise ValueError(self._exhausted)

    @property
    def _step(self) -> float:
        """Coordinates from one first trial to the next."""
        if self.method == "grid":
            return 1 / (self._side - 1)
        return 1 / max(1.0, math.pow(self.covering, 1 / len(self.ranges)) - 1)

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


# Simulated on 2-D bowls with 12 trials, inside the first box and up to half its width outside:
# to keep all widths at an edge, and rounds of 4, end nearer to the best than to narrow what lies at
# no edge, and than rounds of 3 or 6.
_SHRINK = 1 / 2  # of a box, from one round to the next
_ROUND = 4  # trials at least, as far as they go; one more than parameters beyond three
_MOST = 5  # parameters: a design is chosen among all permutations of a round's values
_NARROWEST = 0.05  # of the range: enough values of four digits for many rounds
_SPARE = 1000  # further points of a box in which all of a design has been tried

Box = tuple[list[float], list[float]]  # its lower ends and its widths, as coordinates


@dataclass(frozen=True)
class Narrowing(Search):
    """Rounds of trials, each in a box that lies where the best of the rounds before it says."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials < 2:
            raise ValueError(f"trials={self.trials}: at least 2 are needed")
        if len(self.ranges) > _MOST:
            raise ValueError(
                f"{len(self.ranges)} parameters are too many for method: narrow, which takes "
                f"{_MOST}; use halton"
            )

    @property
    def rounds(self) -> list[int]:
        """How many trials each round has; the first ones one more where they are not equal."""
        count = math.ceil(self.trials / max(_ROUND, len(self.ranges) + 1))
        return [self.trials // count + (place < self.trials % count) for place in range(count)]

    def first(self) -> list[Point]:
        """Return the first round, in the box that the ranges are."""
        size = len(self.ranges)
        return self._round(self.rounds[0], ([0.0] * size, [1.0] * size), ())

    def following(self, scores: Scores) -> list[Point]:
        """Return the next round.

        Raises:
            ValueError: nothing is left to try.
        """
        points, ends = list(scores), list(itertools.accumulate(self.rounds))
        done = ends.index(len(points)) + 1
        box: Box = ([0.0] * len(self.ranges), [1.0] * len(self.ranges))
        for end in ends[:done]:
            box = self._next_box(box, {point: scores[point] for point in points[:end]})
        return self._round(self.rounds[done], box, points)

    def _next_box(self, box: Box, scores: Scores) -> Box:
        edges, lows = self._edges(scores), []
        shrink = 1 if edges else _SHRINK
        widths = [max(shrink * width, _NARROWEST) for width in box[1]]
        for index, at in enumerate(self._coordinates(self.best(scores))):
            low = at + (edges.get(index, 0) - 1) * widths[index] / 2
            inside = min(max(low, 0.0), 1 - widths[index])
            lows.append(low if self.ranges[index].extend else inside)
        return lows, widths

    def _round(self, size: int, box: Box, tried: Sequence[Point]) -> list[Point]:
        fresh: list[Point] = []
        for unit in self._candidates(size):
            inside = zip(*box, unit, strict=True)
            point = self._point([low + width * at for low, width, at in inside])
            if point not in tried and point not in fresh:
                fresh.append(point)
            if len(fresh) == size:
                return fresh
        raise ValueError(self._exhausted)

    def _candidates(self, size: int) -> Iterator[Sequence[float]]:
        """Yield a design of the unit box, then points in case some of it have been tried.

        Those are an additive recurrence (Roberts 2018, "R sequence"): the design's middle is the
        best itself, and where boxes no longer shrink and the best stays, it is all.
        """
        count = len(self.ranges)
        yield from latin(size, count)
        root = 1.5
        for _ in range(60):
            root = (1 + root) ** (1 / (count + 1))
        for place in range(1, _SPARE):
            yield [place * root ** -(index + 1) % 1 for index in range(count)]


@cache
def latin(size: int, count: int) -> tuple[tuple[float, ...], ...]:
    """Return a maximin Latin hypercube: ``size`` points of the unit box of ``count`` dimensions.

    Each dimension has the middles of ``size`` equal cells, one point in each. One dimension after
    the other is ordered so that the points' least distance is the largest; of equals the second
    least counts, and so on (Morris and Mitchell 1995). Its time goes with the factorial of
    ``size``.
    """
    cells: list[tuple[int, ...]] = [(place,) for place in range(size)]
    for _ in range(count - 1):
        grown = (
            [(*cell, to) for cell, to in zip(cells, order, strict=True)]
            for order in itertools.permutations(range(size))
        )
        cells = max(grown, key=_distances)  # of equals the first
    return tuple(tuple((place + 0.5) / size for place in cell) for cell in cells)


def _distances(cells: Sequence[Sequence[int]]) -> list[int]:
    """Return the squared distances of all pairs, the least first."""
    pairs = itertools.combinations(cells, 2)
    return sorted(sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in pairs)
