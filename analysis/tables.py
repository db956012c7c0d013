"""Tables over seeds: rows optimizers, columns dataset/model, each cell mean ± std with its n.

    spectral-bench tables source=runs
    spectral-bench tables source=runs baseline=adamw spread=interval
    spectral-bench tables source=offline:runs sweep=digits format=markdown out=table.md

``publish=<entity>/<project>`` logs the table to W&B, as a Table and an artifact of its own run.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from analysis.command.messages import user_messages, writing
from analysis.command.options import ComparisonOptions
from analysis.run.frame import differences
from analysis.runs import load_runs
from analysis.table.model import Cell, Table
from analysis.table.render import render
from bench import options as cli
from bench.errors import UserError
from bench.table_writer import Form

JOB_TYPE = "report"
_COLUMNS = (
    "row", "column", "metric", "mean", "std", "low", "high", "n", "expected", "diverged",
    "seconds_per_epoch", "difference", "adjusted_p", "verdict", "run_ids",
)  # fmt: skip


def publish(table: Table, project: str, name: str) -> None:
    """Log ``table`` to ``<entity>/<project>`` as the comparison ``name``; again: a new version.

    The run is of job type "report", which readers of runs leave out. Address and login are wandb's
    own; with WANDB_MODE=offline it is written to ./wandb, to be sent later by `wandb sync`.

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
            config={
                "metric": table.metric, "baseline": list(table.baselines), "notes": table.notes,
            },
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
    numbers: list[Any] = [cell.mean, cell.std, *cell.interval]
    numbers += [cell.n, cell.expected, cell.diverged, cell.seconds_per_epoch]
    numbers += [math.nan, math.nan, None] if found is None else [
        found.difference, found.adjusted_p, found.verdict
    ]  # fmt: skip
    finite = [None if isinstance(n, float) and not math.isfinite(n) else n for n in numbers]
    return [*finite, " ".join(cell.run_ids)]


class TableOptions(ComparisonOptions):
    """Options of ``spectral-bench tables``."""

    tags: list[str] = Field([], description="only runs with one of these tags")
    states: list[str] = Field(
        [], description="only runs in one of these states; the table then counts no others"
    )
    refresh: bool = Field(True, description="ask a W&B server for changes; else its cache alone")
    also: str | None = Field(
        None, description="a second source; runs that the two tell differently are listed"
    )
    rows: list[str] = Field(["optimizer"], min_length=1, description="what names a row")
    cols: list[str] = Field(["dataset", "model"], min_length=1, description="what names a column")
    resolve: float | None = Field(
        None, gt=0, description="how many seeds would show this difference (in the metric's unit)"
    )
    ids: bool = Field(False, description="name the runs of each cell below the table")
    format: Form = Field("text", description="form of the table")
    out: Path | None = Field(None, description="write the table to this file instead")
    publish: str | None = Field(
        None, description="also log it to this <entity>/<project> of W&B: a Table and an artifact"
    )
    check: Path | None = Field(
        None, description="compare with this file instead; exit code 1 where they differ"
    )


def main(argv: list[str]) -> int:
    """Print the table that the options ask for; what concerns the source goes to stderr."""
    options = cli.parse(
        TableOptions,
        argv,
        prog="spectral-bench tables",
        description="Compare optimizers over seeds: mean ± std, n, seconds per epoch, verdicts.",
        examples=[
            "source=runs baseline=adamw spread=interval",
            "source=wandb:me/spectral-bench sweep=digits format=markdown out=table.md",
            "source=runs also=wandb:me/spectral-bench",
            "source=offline:runs metric=best/test_accuracy rows=optimizer,schedule",
        ],
    )
    table, count = _build(options)
    print(f"source: {options.source} ({count} runs)", file=sys.stderr)
    if options.publish is not None:
        _publish(table, options)
    if options.check is not None:
        return _check(render(table, options.format, ids=options.ids), options.check)
    if options.out is None:
        terminal = sys.stdout.isatty()
        sys.stdout.write(render(table, options.format, terminal=terminal, ids=options.ids))
        return 0
    with writing(options.out):
        options.out.write_text(render(table, options.format, ids=options.ids), encoding="utf-8")
    return 0


def _build(options: TableOptions) -> tuple[Table, int]:
    with user_messages(options.source):
        runs = _load(options, options.source)
        if options.also is not None:
            _compare_sources(options, runs)
        table = options.table(runs)
        if options.states:
            note = f"Only runs in these states were read: {', '.join(options.states)}."
            table = replace(table, notes=(*table.notes, note))
        return table, len(runs)


def _load(options: TableOptions, source: str) -> pd.DataFrame:
    # Folders are read whole, so that a misspelt sweep can be named beside those there.
    sweep = options.sweep if source.startswith("wandb:") else None
    chosen = {"tags": options.tags, "states": options.states}
    found = load_runs(source, sweep=sweep, refresh=options.refresh, **chosen)
    if found.empty and any(chosen.values()):
        asked = ", ".join(f"{name}={','.join(given)}" for name, given in chosen.items() if given)
        raise ValueError(f"no runs with {asked} there")
    return found


def _compare_sources(options: TableOptions, runs: pd.DataFrame) -> None:
    assert options.also is not None
    other = _load(options, options.also)
    if options.sweep is not None:
        runs, other = (found[found["sweep"] == options.sweep] for found in (runs, other))
    names = (options.source, options.also)
    found = differences(runs, other, names=names, metric=options.metric)
    for line in found or [f"{names[0]} and {names[1]} tell the same of {len(runs)} runs"]:
        print(line, file=sys.stderr)


def _publish(table: Table, options: TableOptions) -> None:
    assert options.publish is not None
    try:
        publish(table, options.publish, options.sweep or "all")
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"published to {options.publish}", file=sys.stderr)


def _check(text: str, file: Path) -> int:
    """Return 0 where ``file`` holds ``text``, else 1, with the first line that differs."""
    try:
        committed = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"check={file}: {reason}; make it with out={file}") from error
    if committed == text:
        print(f"{file}: up to date")
        return 0
    pairs = zip_longest(committed.splitlines(), text.splitlines())
    number, (old, new) = next(
        ((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1]), (0, ("", ""))
    )
    print(f"{file}: no longer matches the data; line {number} differs", file=sys.stderr)
    print(f"  file: {old}\n  data: {new}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    cli.run(main)
