"""Tables over seeds: rows optimizers, columns dataset/model, each cell mean ± std with its n.

    python -m analysis.tables source=runs
    python -m analysis.tables source=offline:runs sweep=digits format=markdown out=table.md

The table itself is made by `build_table`, its form by `analysis.table_render.render`.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Literal

from pydantic import Field

from analysis.runs import RunWarning, load_runs
from analysis.table_build import Cell, Table, build_table
from analysis.table_render import render
from bench import options as cli
from bench.errors import UserError

__all__ = ["Cell", "Table", "build_table", "main", "render"]


class TableOptions(cli.Options):
    """Options of ``python -m analysis.tables``."""

    source: str = Field("runs", description="a runs folder, offline:<folder> or wandb:<e>/<p>")
    sweep: str | None = Field(None, description="only the runs of this sweep")
    metric: str = Field("test/accuracy", description="a number of the runs' summaries")
    rows: list[str] = Field(["optimizer"], min_length=1, description="what names a row")
    cols: list[str] = Field(["dataset", "model"], min_length=1, description="what names a column")
    format: Literal["text", "markdown", "csv"] = Field("text", description="form of the table")
    seeds: list[int] | None = Field(None, description="expected seeds; default: all seen")
    out: Path | None = Field(None, description="write the table to this file instead")


def main(argv: list[str]) -> None:
    """Print the table that the options ask for; what concerns the source goes to stderr."""
    options = cli.parse(
        TableOptions,
        argv,
        prog="python -m analysis.tables",
        description="Compare optimizers over seeds: mean ± std, n and seconds per epoch.",
        examples=["source=runs", "source=offline:runs metric=best/test_accuracy format=markdown"],
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RunWarning)
        try:
            runs = load_runs(options.source)
            table = build_table(
                runs,
                metric=options.metric,
                rows=options.rows,
                cols=options.cols,
                sweep=options.sweep,
                seeds=options.seeds,
            )
        except ValueError as error:
            where = "" if options.source in str(error) else f"{options.source}: "
            raise UserError(f"{where}{error}") from error
        finally:
            for warning in caught:
                print(f"warning: {warning.message}", file=sys.stderr)
    print(f"source: {options.source} ({len(runs)} runs)", file=sys.stderr)
    if options.out is None:
        terminal = sys.stdout.isatty()
        sys.stdout.write(render(table, options.format, terminal=terminal))
        return
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(render(table, options.format), encoding="utf-8")
    except OSError as error:
        raise UserError(f"out={options.out}: {error.strerror}; name another file") from error


if __name__ == "__main__":
    cli.run(main)
