"""Tables over seeds: rows optimizers, columns dataset/model, each cell mean ± std with its n.

    spectral-bench tables source=runs
    spectral-bench tables source=runs baseline=adamw spread=interval
    spectral-bench tables source=offline:runs sweep=digits format=markdown out=table.md

``publish=<entity>/<project>`` logs the table to W&B, as a Table and an artifact of its own run, and
writes a W&B Report of it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import pandas as pd
from pydantic import Field

from analysis.command.messages import user_messages, writing
from analysis.command.options import ComparisonOptions
from analysis.run.frame import differences
from analysis.runs import load_runs
from analysis.table.model import Table
from analysis.table.render import render
from bench import options as cli
from bench.errors import UserError
from bench.table_writer import Form


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
        None, description="also log it to this <entity>/<project> of W&B, and write a W&B Report"
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
    table, runs = _build(options)
    print(f"source: {options.source} ({len(runs)} runs)", file=sys.stderr)
    if options.publish is not None:
        _publish(table, runs, options)
    if options.check is not None:
        return _check(render(table, options.format, ids=options.ids), options.check)
    if options.out is None:
        terminal = sys.stdout.isatty()
        sys.stdout.write(render(table, options.format, terminal=terminal, ids=options.ids))
        return 0
    with writing(options.out):
        options.out.write_text(render(table, options.format, ids=options.ids), encoding="utf-8")
    return 0


def _build(options: TableOptions) -> tuple[Table, pd.DataFrame]:
    with user_messages(options.source):
        runs = _load(options, options.source)
        if options.also is not None:
            _compare_sources(options, runs)
        table = options.table(runs)
        if options.states:
            note = f"Only runs in these states were read: {', '.join(options.states)}."
            table = replace(table, notes=(*table.notes, note))
        return table, runs


def _load(options: TableOptions, source: str) -> pd.DataFrame:
    # Folders are read whole, so that a misspelt sweep can be named beside those there.
    sweep = options.sweep if source.startswith("wandb:") else None
    chosen = {"tags": options.tags, "states": options.states}
    loaded = load_runs(source, sweep=sweep, refresh=options.refresh, **chosen)
    if loaded.empty and any(chosen.values()):
        asked = ", ".join(f"{name}={','.join(given)}" for name, given in chosen.items() if given)
        raise ValueError(f"no runs with {asked} there")
    return loaded


def _compare_sources(options: TableOptions, runs: pd.DataFrame) -> None:
    assert options.also is not None
    other = _load(options, options.also)
    if options.sweep is not None:
        runs, other = (compared[compared["sweep"] == options.sweep] for compared in (runs, other))
    names = (options.source, options.also)
    compared = differences(runs, other, names=names, metric=options.metric)
    for line in compared or [f"{names[0]} and {names[1]} tell the same of {len(runs)} runs"]:
        print(line, file=sys.stderr)


def _publish(table: Table, runs: pd.DataFrame, options: TableOptions) -> None:
    """Log the table and write the report; that there is no report is said, and is no error."""
    from analysis import report  # draws, which takes time to import
    from analysis.page import wandb_report
    from analysis.page.wandb_table import exponent_maps, publish

    assert options.publish is not None
    if options.sweep is not None:
        runs = runs[runs["sweep"] == options.sweep]
    shared = options.model_fields_set & report.ReportOptions.model_fields.keys() - {"out"}
    asked = report.ReportOptions(**{key: getattr(options, key) for key in shared})
    maps = exponent_maps(options.source, {*runs["id"]})
    try:
        page = report.page(runs, asked)
        published = publish(table, options.publish, options.sweep or "all", page, maps)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"published to {options.publish}", file=sys.stderr)
    if published is None:
        print("no W&B Report: nothing was sent (WANDB_MODE=offline)", file=sys.stderr)
        return
    networks = sorted({*zip(runs["dataset"], runs["model"], strict=True)})
    text, sweep = render(table, "markdown"), options.sweep
    try:
        addresses = wandb_report.write(
            published, text, networks, sweep=sweep, metric=options.metric
        )
    except wandb_report.NoReportError as error:
        print(f"no W&B Report: {error}", file=sys.stderr)
    else:
        print("\n".join(["W&B Report:", *addresses]), file=sys.stderr)


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
