"""What is tuned: each optimizer of a study's grid on each of its models and datasets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import UserError
from bench.launch.grid import Composer, Invalid, Job
from bench.launch.standing import run_folder
from bench.tuned import FIRST_TUNING_SEED
from bench.tuning.space import Point, Search
from bench.tuning.spec import Tuning

# Each trial has its own; tuned=true would change what is searched.
_OWN = frozenset({"seed", "sweep", "tuned"})


@dataclass(frozen=True)
class Candidate:
    """One optimizer on one model and dataset, and the search for its settings."""

    words: tuple[str, ...]  # the overrides that all of its trials share
    names: Mapping[str, str]
    keys: tuple[str, ...]
    search: Search
    tuning: Tuning
    sweep: str
    composer: Composer

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.names['optimizer']} ({self.names['model']}, {self.names['dataset']})"

    def overrides(self, point: Point, seed: int) -> list[str]:
        """Return the overrides of one of a trial's runs."""
        values = [f"{key}={value!r}" for key, value in zip(self.keys, point, strict=True)]
        epochs = self.tuning.epochs
        shorter = [] if epochs is None else [f"trainer.epochs={epochs}"]
        return [*self.words, *shorter, *values, f"seed={seed}", f"sweep={self.sweep}"]

    def runs(self, point: Point) -> list[Job]:
        """Return a trial's runs, one a seed.

        Raises:
            UserError: they are no valid runs.
        """
        return [_job(self.composer, self.overrides(point, seed)) for seed in self.tuning.seeds]

    def score(self, point: Point) -> float | None:
        """Return the mean of the trial's runs, larger is better; None until all are finished.

        A run that diverged, or has no finite value, makes it -inf.
        """
        values = []
        for job in self.runs(point):
            folder = run_folder(job.config, job.identity.id)
            if not folder.finished:
                return None
            done = folder.status["state"] == "done"
            value = float(folder.summary[self.tuning.metric]) if done else math.nan
            values.append(self.tuning.oriented(value) if math.isfinite(value) else -math.inf)
        return math.fsum(values) / len(values)

    def scores(self) -> dict[Point, float]:
        """Return the scores of the trials that the finished runs decide, in order."""
        known: dict[Point, float] = {}
        while True:
            fresh = [point for point in self.search.asked(known) if point not in known]
            scored = {point: self.score(point) for point in fresh}
            found = {point: value for point, value in scored.items() if value is not None}
            known |= found
            if len(found) < len(scored) or not fresh:
                return known

    def missing(self) -> list[list[str]]:
        """Return the overrides of the runs to be made next; none once all trials are done."""
        known = self.scores()
        points = [point for point in self.search.asked(known) if point not in known]
        return [self.overrides(point, seed) for point in points for seed in self.tuning.seeds]


def candidates(
    composer: Composer,
    grid: Sequence[Sequence[str]],
    tuning: Tuning,
    study: str,
    more: Sequence[str] = (),
) -> list[Candidate]:
    """Return what a grid's optimizers, models and datasets make; each once, in its order.

    ``more`` are overrides that only trials have.

    Raises:
        UserError: a combination is no run, has a seed kept for tuning, or cannot be told from
            another one by optimizer, model and dataset.
    """
    found: dict[str, Candidate] = {}
    for overrides in grid:
        words = tuple(word for word in overrides if word.partition("=")[0] not in _OWN)
        report = _job(composer, [w for w in overrides if w.partition("=")[0] != "tuned"]).config
        if report.seed >= FIRST_TUNING_SEED:
            raise UserError(
                f"seed: {report.seed} is among the report's; seeds from {FIRST_TUNING_SEED} on "
                "are for tuning"
            )
        names = report.names
        keys = tuple(tuning.keys(names["optimizer"]))
        given = {word.partition("=")[0] for word in words}
        for key in given.intersection(keys):
            raise UserError(f"{key}: it is to be searched for, and given a value; leave it out")
        search = tuning.search(names["optimizer"])
        one = Candidate((*words, *more), names, keys, search, tuning, f"{study}_tune", composer)
        if found.setdefault(one.label, one).words != one.words:
            raise UserError(
                f"{one.label}: the grid has several variants of it; make each a file of its own "
                "in conf/optimizer/, since settings are kept by that name"
            )
    return list(found.values())


def _job(composer: Composer, overrides: Sequence[str]) -> Job:
    made: Any = composer.job(overrides)
    if isinstance(made, Invalid):
        raise UserError(f"{made.reason} (in: {' '.join(made.overrides)})")
    assert isinstance(made, Job)
    return made
