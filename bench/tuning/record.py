"""What a finished search is written down as: settings with their provenance, and a table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from bench import tuned
from bench.errors import RunsFailedError
from bench.launch.grid import Job
from bench.launch.standing import run_folder
from bench.tuning.candidates import Candidate


def write(one: Candidate, root: Path) -> Path:
    """Write the settings of the best trial; the same runs give the same bytes.

    Raises:
        RunsFailedError: every trial diverged.
    """
    scores = one.scores()
    best = one.search.best(scores)
    if scores[best] == -math.inf:
        raise RunsFailedError(f"{one.label}: every trial diverged; lower its range")
    path = tuned.file_of(root, one.names)
    tuned.write(path, dict(zip(one.keys, best, strict=True)), provenance(one))
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
        "at": one.search.place(scores),
        "trials": len(scores),
        "diverged": _diverged(scores.values()),
        "seeds": list(tuning.seeds),
        "method": tuning.method,
        "extension": tuning.extension,
        "space": {
            key: dataclasses.asdict(its)
            for key, its in zip(one.keys, one.search.ranges, strict=True)
        },
        "epochs": config.trainer.epochs,
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


def table(found: Sequence[Candidate]) -> Table:
    """Return one row an optimizer: what was spent, what was found, and where in the range."""
    out = Table(box=None)
    names = ["optimizer", "model", "dataset", "trials", "diverged", "best", "score", "lies", "file"]
    for name in names[:-1]:
        out.add_column(name, justify="right" if name in ("trials", "diverged", "score") else "left")
    for one in found:
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
                one.search.place(scores),
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
