"""What a file of sweeps/ says beyond its grid: its question, its cost, and how it is tuned.

study:
  question: Which optimizer is best?
  part_of: study (a)
  notes: [Seeds 5 to 9 were added later.]
  cost: {seconds: 652, device: NVIDIA H200, measured: true}
  exponents: [optimizer=adamw, seed=1000]    the run on which measured exponents are measured
  looks: 2                                   seeds were added once, to results that had been seen
  contrasts: [[muon, muon_scrambled]]        to be compared, beside AdamW and Muon with all
  tuning:
    trials: 6                                of each optimizer
    ...

Nothing of it enters a run's config, hence its id. Which trials a search makes is a pure function of
the scores so far. The first ones cover the declared ranges. Each later one is decided by the scores
of those before it: where the best lies at an edge of what was tried, the range is extended by one
step beyond it; otherwise the gap beside the best is halved, on the side of the better neighbour.
Every search makes the same number of trials, whichever of the two its later ones were.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.errors import UserError, suggestion
from bench.files import home
from bench.registration import Registered
from bench.tuning.settings import FIRST_TUNING_SEED

Point = tuple[float, ...]  # a value for each parameter
Scores = Mapping[Point, float]  # larger is better; -inf for a trial that diverged
Method = Literal["grid", "halton"]
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

    def position(self, scores: Scores) -> Position:
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
        for offset in range(len(self.ranges)):  # one parameter after the other
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
        edges: dict[int, int] = {}
        for index, its in enumerate(self.ranges):
            tried = [point[index] for point in scores]
            if its.extend or fixed_too:
                side = (best[index] == max(tried)) - (best[index] == min(tried))
                edges |= {index: side} if side else {}
        return edges

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


Metric = Literal["val/accuracy", "val/loss"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Tuning(_Strict):
    """How a study's optimizers are tuned, each by the same rules.

    Attributes:
        trials: settings tried of each optimizer, diverged ones included.
        extension: how many of them are decided by the scores of the others (bench.tuning.spec).
        metric: of the validation split, at a run's end.
        seeds: each trial's runs; its score is their mean.
        method: of the trials that cover the space.
        epochs: of a trial; None for as many as the report's runs have.
        space: the ranges of each optimizer, by dotted key.
    """

    trials: int = Field(ge=2)
    extension: int = Field(ge=0)
    metric: Metric = "val/accuracy"
    seeds: list[Annotated[int, Field(ge=FIRST_TUNING_SEED)]] = Field(min_length=1)
    method: Method = "grid"
    epochs: int | None = Field(None, gt=0)
    space: dict[str, dict[str, Range]]

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{seeds} names a seed twice")
        return seeds

    def keys(self, optimizer: str) -> list[str]:
        """Return the dotted keys that are searched for ``optimizer``.

        Raises:
            UserError: the study declares no space for it.
        """
        if optimizer not in self.space:
            known = suggestion(optimizer, self.space)
            raise UserError(f"study.tuning.space: nothing for optimizer={optimizer}; {known}")
        return list(self.space[optimizer])

    def search(self, optimizer: str) -> Search:
        """Return the search for one optimizer.

        Raises:
            UserError: there is no space for it, or it cannot be covered by so many trials.
        """
        ranges = tuple(self.space[optimizer][key] for key in self.keys(optimizer))
        try:
            return Search(ranges, self.trials, self.extension, self.method)
        except ValueError as error:
            raise UserError(f"study.tuning: optimizer={optimizer}: {error}") from error

    def oriented(self, value: float) -> float:
        """Return a metric's value so that larger is better."""
        return -value if self.metric == "val/loss" else value


class SweepCost(_Strict):
    """Seconds of ``device`` that a whole sweep takes, its tuning included; else an estimate."""

    seconds: float = Field(gt=0)
    device: str
    measured: bool

    def __str__(self) -> str:
        seconds = self.seconds
        minutes = f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
        return f"{minutes} on {self.device}, {'measured' if self.measured else 'estimated'}"


class Study(_Strict):
    """What a sweep file says of itself: see the module.

    Attributes:
        question: what it is to answer, in one sentence.
        part_of: the study, or the experiment of the preprint, to which it belongs.
        notes: what a reader of its results must know, a sentence each.
        cost: None where nobody knows.
        exponents: overrides.
        tuning: None for none.
        looks: how many interim analyses: how often its results were looked at while seeds were
            added, the last time counted.
        contrasts: pairs of optimizers.
        registered: what is settled before the first report run (bench.registration).
    """

    question: str | None = None
    part_of: str | None = None
    notes: list[str] = []
    cost: SweepCost | None = None
    exponents: list[str] | None = None
    tuning: Tuning | None = None
    looks: int = Field(1, ge=1)
    contrasts: list[tuple[str, str]] = []
    registered: Registered | None = None

    @field_validator("contrasts")
    @classmethod
    def _of_two(cls, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        if same := [one for one, other in pairs if one == other]:
            raise ValueError(f"{same[0]} cannot be compared with itself")
        if len({frozenset(pair) for pair in pairs}) < len(pairs):
            raise ValueError("a pair stands there twice")
        return pairs


def looks_of(sweep: str) -> int:
    """Return how many interim analyses the sweep's file declares; 1 without.

    Raises:
        UserError: as `study_of`.
    """
    path = home() / "sweeps" / f"{sweep}.yaml"
    return study_in(path).looks if path.is_file() else 1


def study_in(file: Path) -> Study:
    """Return what a sweep file says of itself, the file taken alone.

    Raises:
        UserError: as `study_of`.
    """
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return study_of(config)


def study_of(master: DictConfig | Mapping[str, Any]) -> Study:
    """Return the study of a composed config; one without anything where it names none.

    Raises:
        UserError: a key or value that is not valid.
    """
    node = master.get("study")
    plain = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    try:
        return Study.model_validate(plain or {})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(["study", *map(str, problem["loc"])])
        message = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {message[0].lower()}{message[1:]}") from error
