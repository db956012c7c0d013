"""What is tuned: each optimizer of a study's grid on each of its models and datasets.

A finished search is written down as settings with their provenance, and as a table.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.errors import RunsFailedError, UserError
from bench.launch.grid import Composer, Invalid, Job
from bench.launch.status import run_folder
from bench.tuning import settings
from bench.tuning.search import Covering, Point, Range, Search
from bench.tuning.settings import FIRST_TUNING_SEED
from bench.tuning.space import Tie
from bench.tuning.spec import Tuning

# Each trial has its own; tuned=true would change what is searched.
_OWN = frozenset({"seed", "sweep", "tuned"})


@dataclass(frozen=True)
class Candidate:
    """One optimizer on one model and dataset, and the search for its settings."""

    shared: tuple[str, ...]  # the overrides that all of its trials share
    names: Mapping[str, str]
    searched: Mapping[str, Range]
    tied: Mapping[str, Tie]
    search: Search
    tuning: Tuning
    sweep: str
    composer: Composer
    epochs: int  # of the report's runs

    @property
    def keys(self) -> tuple[str, ...]:
        """The dotted keys of a point's values."""
        return tuple(self.searched)

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.names['optimizer']} ({self.names['model']}, {self.names['dataset']})"

    def settings(self, point: Point) -> dict[str, float]:
        """Return a trial's settings by dotted key, those that follow others among them."""
        own = dict(zip(self.keys, point, strict=True))
        return own | {key: tie.value(own) for key, tie in self.tied.items()}

    def overrides(self, point: Point, seed: int) -> list[str]:
        """Return the overrides of one of a trial's runs."""
        values = [f"{key}={value!r}" for key, value in self.settings(point).items()]
        epochs = self.tuning.epochs
        smaller = [] if epochs is None else [f"trainer.epochs={epochs}"]
        smaller += self.tuning.at
        replaced = {one.partition("=")[0] for one in self.tuning.at}
        shared = [one for one in self.shared if one.partition("=")[0] not in replaced]
        return [*shared, *smaller, *values, f"seed={seed}", f"sweep={self.sweep}"]

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
            known |= {point: value for point, value in scored.items() if value is not None}
            if None in scored.values() or not fresh:
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
    by_label: dict[str, Candidate] = {}
    for overrides in grid:
        shared = tuple(one for one in overrides if one.partition("=")[0] not in _OWN)
        untuned = [one for one in overrides if one.partition("=")[0] != "tuned"]
        report = _job(composer, untuned).config
        if report.seed >= FIRST_TUNING_SEED:
            raise UserError(
                f"seed: {report.seed} is among the report's; seeds from {FIRST_TUNING_SEED} on "
                "are for tuning"
            )
        names = report.names
        values = composer.values(untuned)
        searched = tuning.ranges(names["optimizer"], values)
        tied = tuning.tied(searched, values)
        _refuse_given({one.partition("=")[0] for one in shared}, searched, tied)
        one = Candidate(
            (*shared, *more), names, searched, tied, tuning.search(names["optimizer"], searched),
            tuning, f"{study}_tune", composer, report.trainer.epochs,
        )  # fmt: skip
        if by_label.setdefault(one.label, one).shared != one.shared:
            raise UserError(
                f"{one.label}: the grid has several variants of it; make each a file of its own "
                "in conf/optimizer/, since settings are kept by that name"
            )
    return list(by_label.values())


def _refuse_given(given: set[str], searched: Mapping[str, Range], tied: Mapping[str, Tie]) -> None:
    for key in sorted(given.intersection(searched)):
        raise UserError(f"{key}: it is to be searched for, and given a value; leave it out")
    for key in sorted(given.intersection(tied)):
        raise UserError(
            f"{key}: it follows {tied[key].key}, and is given a value; leave it out, or name what "
            "follows what in study.tuning.ties"
        )


def _job(composer: Composer, overrides: Sequence[str]) -> Job:
    made: Any = composer.job(overrides)
    if isinstance(made, Invalid):
        raise UserError(f"{made.reason} (in: {' '.join(made.overrides)})")
    assert isinstance(made, Job)
    return made


def write(one: Candidate, root: Path) -> Path:
    """Write the settings of the best trial; the same runs give the same bytes.

    Raises:
        RunsFailedError: every trial diverged.
    """
    scores = one.scores()
    best = one.search.best(scores)
    if scores[best] == -math.inf:
        raise RunsFailedError(f"{one.label}: every trial diverged; lower its range")
    path = settings.file_of(root, one.names)
    settings.write(path, one.settings(best), provenance(one))
    return path


def provenance(one: Candidate) -> dict[str, Any]:
    """Return where the settings come from: budget, space, every trial, code and device."""
    scores, tuning = one.scores(), one.tuning
    best = one.search.best(scores)
    jobs = {point: one.runs(point) for point in scores}
    attempts = [_last_attempt(job) for runs in jobs.values() for job in runs]
    config = jobs[best][0].config
    return {
        "study": one.sweep.removesuffix("_tune"),
        "metric": tuning.metric,
        "score": _plain(one, scores[best]),
        "at": one.search.position(scores),
        "trials": len(scores),
        "diverged": _diverged(scores.values()),
        "seeds": list(tuning.seeds),
        **_how(one),
        "epochs": config.trainer.epochs,
        **_transferred(one, config.trainer.epochs),
        "batch_size": config.trainer.batch_size,
        "schedule": config.names["schedule"],
        "tried": [
            {
                **dict(zip(one.keys, point, strict=True)),
                "score": _plain(one, score),
                "runs": [job.identity.id for job in jobs[point]],
            }
            for point, score in scores.items()
        ],
        "commits": _distinct(attempt.get("git", {}).get("commit") for attempt in attempts),
        "uncommitted": any(attempt.get("git", {}).get("dirty") for attempt in attempts),
        "devices": _distinct(attempt.get("device") for attempt in attempts),
        "torch": _distinct(attempt.get("versions", {}).get("torch") for attempt in attempts),
    }


def _how(one: Candidate) -> dict[str, Any]:
    """Return how trials were chosen, from what, and with which knowledge."""
    how: dict[str, Any] = {"method": one.tuning.method}
    if isinstance(one.search, Covering):
        how["extension"] = one.search.extension
    how["space"] = {key: dataclasses.asdict(its) for key, its in one.searched.items()}
    if one.tied:
        how["tied"] = {key: dataclasses.asdict(tie) for key, tie in one.tied.items()}
    return how | ({"known": list(one.tuning.known)} if one.tuning.known else {})


def _transferred(one: Candidate, epochs: int) -> dict[str, Any]:
    """Return from which smaller runs to which the settings are carried over; empty for the same."""
    if epochs == one.epochs and not one.tuning.at:
        return {}
    smaller = {"at": list(one.tuning.at)} if one.tuning.at else {}
    return {"transferred": {"to_epochs": one.epochs, **smaller}}


def table(tuned: Sequence[Candidate]) -> Table:
    """Return one row an optimizer: what was spent, the best, and where in the range."""
    out = Table(box=None)
    names = ["optimizer", "model", "dataset", "trials", "diverged", "best", "score", "lies", "file"]
    for name in names[:-1]:
        out.add_column(name, justify="right" if name in ("trials", "diverged", "score") else "left")
    for one in tuned:
        scores = one.scores()
        if len(scores) < one.search.trials:
            rest = [f"{len(scores)} of {one.search.trials}", "", "", "", "unfinished"]
        else:
            best = one.search.best(scores)
            values = zip(one.keys, best, strict=True)
            rest = [
                str(len(scores)),
                str(_diverged(scores.values())),
                " ".join(f"{key.removeprefix('optimizer.')}={value:g}" for key, value in values),
                "" if scores[best] == -math.inf else f"{_plain(one, scores[best]):.4f}",
                one.search.position(scores),
            ]
        out.add_row(one.names["optimizer"], one.names["model"], one.names["dataset"], *rest)
    return out


def _plain(one: Candidate, score: float) -> float | None:
    """Return a score as the metric's own value; None for a trial that diverged."""
    return None if score == -math.inf else one.tuning.oriented(score)


def _diverged(scores: Iterable[float]) -> int:
    return sum(score == -math.inf for score in scores)


def _last_attempt(job: Job) -> dict[str, Any]:
    attempts = run_folder(job.config, job.identity.id).provenance.get("attempts") or [{}]
    return dict(attempts[-1])


def _distinct(values: Iterable[Any]) -> list[str]:
    return sorted({str(value) for value in values if value is not None})
