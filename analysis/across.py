"""Optimizers across tasks: mean ranks over the sections of several studies, and profiles.

    spectral-bench across source=results
    spectral-bench across source=runs optimizers=adamw,muon,soap figure=across.svg

What is ranked, by which outcome, and what each section counts is declared in
`analysis.judge.across`.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from pathlib import Path
from typing import Literal

from pydantic import Field

from analysis.command.messages import user_messages, writing
from analysis.figure.style import save
from analysis.judge.across import DECLARED
from analysis.page.across import Source, across, drawn, table
from analysis.runs import load_history, load_runs
from bench import options as cli
from bench.errors import UserError
from bench.table_writer import Form, write

_FIGURES = (".png", ".svg", ".pdf")


class AcrossOptions(cli.Options):
    """Options of ``spectral-bench across``."""

    source: str = Field(
        "results", description="folder, archives, offline:<folder> or wandb:<e>/<p>"
    )
    optimizers: list[str] = Field(
        list(DECLARED), min_length=2, description="which are ranked among each other, in the"
        " sections that have them all; others are ranked beside them"
    )  # fmt: skip
    measure: Literal["step", "epoch", "seconds", "flops"] = Field(
        "step", description="of reaching the target, in its profile"
    )
    format: Form = Field("text", description="form of the table")
    figure: Path | None = Field(None, description="also draw it: a .png, .svg or .pdf file")


def main(argv: list[str]) -> None:
    """Print the table; draw the figure where a file is named."""
    options = cli.parse(
        AcrossOptions,
        argv,
        prog="spectral-bench across",
        description="Rank optimizers over all tasks of several studies.",
        examples=["source=results figure=across.svg", "optimizers=adamw,muon measure=seconds",
                  "source=results/study_a_8.parquet,results/study_c.parquet"],
    )  # fmt: skip
    if options.figure is not None and options.figure.suffix not in _FIGURES:
        raise UserError(f"figure={options.figure}: name a {', '.join(_FIGURES)} file")
    with user_messages(options.source):
        found = across([_source(options.source)], options.optimizers, options.measure)
    sys.stdout.write(write(table(found), options.format, terminal=sys.stdout.isatty()))
    if options.figure is not None:
        with writing(options.figure):
            save(drawn(found), options.figure)
        print(f"figure: {options.figure}", file=sys.stderr)


def _source(place: str) -> Source:
    return Source(load_runs(place), cache(partial(load_history, place)))


if __name__ == "__main__":
    cli.run(main)
