"""A table on W&B: a run that holds it as a Table and an artifact, its page, and heat maps."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure

from analysis.figure.exponents import exponent_map
from analysis.figure.style import save, styled
from analysis.page.wandb_report import Published
from analysis.run import measured
from analysis.run.frame import RunWarning
from analysis.table.model import Cell, Table
from analysis.table.render import render
from bench.table_writer import Form

JOB_TYPE = "report"
_COLUMNS = (
    "row", "column", "metric", "mean", "std", "low", "high", "n", "expected", "diverged",
    "seconds_per_epoch", "difference", "adjusted_p", "verdict", "run_ids",
)  # fmt: skip


def publish(
    table: Table,
    project: str,
    name: str,
    page: str | None = None,
    figures: Mapping[str, Figure] = MappingProxyType({}),
) -> Published | None:
    """Log ``table`` to ``<entity>/<project>`` as the comparison ``name``; again: a new version.

    The run is of job type "report", which readers of runs leave out. Address and login are wandb's
    own; with WANDB_MODE=offline it is written to ./wandb, to be sent later by `wandb sync`.

    Args:
        table: what to log.
        project: where.
        name: of the comparison.
        page: the same runs as one HTML page.
        figures: pictures to log, by name.

    Returns:
        What a report can refer to; None where nothing was sent.

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
            config={"metric": table.metric, "baseline": table.baselines, "notes": table.notes},
            settings=wandb.Settings(console="off", silent=True, init_timeout=60),
        )  # fmt: skip
        artifact = wandb.Artifact(f"comparison-{name}", type=JOB_TYPE)
        with tempfile.TemporaryDirectory() as folder:
            logged: dict[str, Any] = {
                "comparison": wandb.Table(columns=list(_COLUMNS), data=rows(table))
            }
            for title, path in _drawn(figures, Path(folder)).items():
                logged[title] = wandb.Image(str(path))
            if page is not None:
                path = Path(folder, "report.html")
                path.write_text(page, encoding="utf-8")
                logged["page"] = wandb.Html(str(path), inject=False)
                artifact.add_file(str(path))
            run.log(logged)
            for path in _written(table, Path(folder)):
                artifact.add_file(str(path))
            run.log_artifact(artifact)
            sent = None if run.offline else (run.id, str(run.url))
            run.finish()
    except Exception as error:  # the client has several unrelated families of errors
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"publish={project}: {reason}; check `wandb login`") from error
    finally:
        wandb.teardown()
    return sent and Published(entity, only, name, *sent, pictures=tuple(figures))


def _drawn(figures: Mapping[str, Figure], folder: Path) -> dict[str, Path]:
    paths = {title: folder / f"{number}.png" for number, title in enumerate(figures)}
    for title, path in paths.items():
        save(figures[title], path)
    return paths


_FORMS: dict[Form, str] = {"markdown": "md", "latex": "tex", "csv": "csv"}


def _written(table: Table, folder: Path) -> list[Path]:
    """Return the files of the table, one a form."""
    paths = []
    for form, suffix in _FORMS.items():
        paths.append(folder / f"comparison.{suffix}")
        paths[-1].write_text(render(table, form, ids=True), encoding="utf-8")
    return paths


def rows(table: Table) -> list[Iterable[Any]]:
    """Return one row a cell, in the order of the published columns; None for what is not there."""
    return [
        [label, column, table.metric, *_numbers(cell)]
        for label, line in zip(table.rows, table.cells, strict=True)
        for column, cell in zip(table.columns, line, strict=True)
    ]


def _numbers(cell: Cell) -> list[Any]:
    found = cell.comparison
    numbers: list[Any] = [cell.mean, cell.std, *cell.interval]
    numbers += [cell.n, cell.expected, cell.diverged, cell.seconds_per_epoch]
    numbers += [math.nan, math.nan, None] if found is None else [
        found.difference, found.adjusted_p, found.verdict
    ]  # fmt: skip
    finite = [None if isinstance(n, float) and not math.isfinite(n) else n for n in numbers]
    return [*finite, " ".join(cell.run_ids)]


def exponent_maps(source: str, used: set[str]) -> dict[str, Figure]:
    """Return heat maps of the exponents of ``used`` runs by name; none where none were measured."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RunWarning)  # of the table's runs it was said already
            found = measured.load(source.split(","))
    except ValueError:
        return {}
    maps: dict[str, Figure] = {}
    if found.layers.empty:
        return maps
    layers = found.layers[found.layers["run"].isin(used)]
    for (dataset, model), here in layers.groupby(["dataset", "model"], sort=True):
        if here["epoch"].nunique() < 2:  # there is no time to show
            continue
        for name in ("alpha", "gamma", "s"):
            with styled():
                drawn = exponent_map(replace(found, layers=here), name)
            maps[f"{name} of {model} on {dataset}"] = drawn
    return maps
