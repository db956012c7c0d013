"""The comparison on W&B: the table as a W&B Table, and its documents as a report artifact.

It is a run of its own, of job type "report", which readers of runs leave out. Address and login are
wandb's own; with WANDB_MODE=offline it is written to ./wandb, to be sent later by `wandb sync`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analysis.table.model import Cell, Table
from analysis.table.render import render

JOB_TYPE = "report"
_COLUMNS = (
    "row", "column", "metric", "mean", "std", "low", "high", "n", "expected", "diverged",
    "seconds_per_epoch", "difference", "adjusted_p", "verdict", "run_ids",
)  # fmt: skip


def publish(table: Table, project: str, name: str) -> None:
    """Log ``table`` to ``<entity>/<project>`` as the comparison ``name``; again: a new version.

    Raises:
        ValueError: not ``<entity>/<project>``, no login or no connection; one line.
    """
    import wandb

    entity, _, only = project.partition("/")
    if not entity or not only or "/" in only:
        raise ValueError(f"publish={project}: write <entity>/<project>")
    try:
        run = wandb.init(
            entity=entity, project=only, name=f"comparison {name}", job_type=JOB_TYPE,
            config={"metric": table.metric, "baseline": table.baseline, "notes": table.notes},
            settings=wandb.Settings(console="off", silent=True, init_timeout=60),
        )  # fmt: skip
        run.log({"comparison": wandb.Table(columns=list(_COLUMNS), data=rows(table))})
        artifact = wandb.Artifact(f"comparison-{name}", type=JOB_TYPE)
        with tempfile.TemporaryDirectory() as folder:
            for form, suffix in (("markdown", "md"), ("latex", "tex"), ("csv", "csv")):
                path = Path(folder, f"comparison.{suffix}")
                path.write_text(render(table, form, ids=True), encoding="utf-8")  # type: ignore[arg-type]
                artifact.add_file(str(path))
            run.log_artifact(artifact)
            run.finish()
    except Exception as error:  # the client has several unrelated families of errors
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"publish={project}: {reason}; check `wandb login`") from error
    finally:
        wandb.teardown()


def rows(table: Table) -> list[Iterable[Any]]:
    """Return one row a cell, in the order of the published columns; None for what is not there."""
    return [
        [label, column, table.metric, *_numbers(cell)]
        for label, line in zip(table.rows, table.cells, strict=True)
        for column, cell in zip(table.columns, line, strict=True)
    ]


def _numbers(cell: Cell) -> list[Any]:
    found = cell.comparison
    told = [cell.mean, cell.std, *cell.interval]
    numbers: list[Any] = [*told, cell.n, cell.expected, cell.diverged, cell.seconds_per_epoch]
    numbers += [math.nan, math.nan, None] if found is None else [
        found.difference, found.adjusted_p, found.verdict
    ]  # fmt: skip
    finite = [None if isinstance(n, float) and not math.isfinite(n) else n for n in numbers]
    return [*finite, " ".join(cell.run_ids)]
