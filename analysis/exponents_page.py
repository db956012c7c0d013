"""A page of exponents over training, with its figure, from an archive of measured runs.

    spectral-bench exponents-page name=exponents_resnet18 source=<folder of runs>
    spectral-bench exponents-page name=exponents_resnet18

The first gathers the runs in docs/measurements/<name>.parquet; both write docs/<name>.md and
docs/figures/<name>.png from that file alone.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pydantic import Field

from analysis.command.messages import user_messages
from analysis.figure.exponents import alpha_training
from analysis.figure.style import save, styled
from analysis.page.claims import render
from analysis.page.exponents import judged_claims
from analysis.page.text import phrase
from analysis.run import archive as run_archive
from analysis.run import measured
from analysis.run.measured import Measured, last_epochs
from bench import options as cli
from bench.errors import UserError
from bench.files import write_atomically
from bench.table_writer import Table, write


class PageOptions(cli.Options):
    """Options of the command."""

    name: str = Field(description="Name of the archive, the page and the figure.")
    source: str | None = Field(
        None, description="Runs to gather first, a folder or an archive; default: the page's own."
    )
    docs: Path = Field(Path("docs"), description="The folder of the pages.")


def main(argv: list[str]) -> None:
    """Write the page."""
    options = cli.parse(
        PageOptions,
        argv,
        prog="spectral-bench exponents-page",
        description="Write a page of exponents over training from an archive of measured runs.",
        examples=["name=exponents_resnet18 source=runs_exponents", "name=exponents_resnet18"],
    )
    archive = options.docs / "measurements" / f"{options.name}.parquet"
    with user_messages():
        try:
            if options.source is not None:
                archive.parent.mkdir(parents=True, exist_ok=True)
                runs = Path(run_archive.local(options.source)).expanduser()
                run_archive.write(archive, run_archive.gather(runs))
                print(archive)
            if not archive.is_file():
                raise UserError(f"{archive}: no such archive; give source=<folder of runs>")
            measurements = measured.load([str(archive)])
            if measurements.layers.empty:
                raise UserError(f"{archive}: no exponents were measured in these runs")
            figure = options.docs / "figures" / f"{options.name}.png"
            with styled():
                save(alpha_training(measurements), figure)
            text, file = page(measurements, options.name), options.docs / f"{options.name}.md"
            write_atomically(file, lambda stream: stream.write(text.encode()))
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}") from error
    print(f"{figure}\n{file}")


def page(measurements: Measured, name: str) -> str:
    """Return the page of an archive's name."""
    runs = measurements.runs
    networks = {f"{m} on {d}" for m, d in zip(runs["model"], runs["dataset"], strict=True)}
    last = last_epochs(measurements.layers)
    first_run = min(last["run"])
    _, judged = judged_claims(measurements)
    return phrase(
        "exponents.md.j2", "page", name, sorted(networks), sorted(runs["id"]),
        _over_training(measurements.layers), first_run, _last(last[last["run"] == first_run]),
        render(judged, "markdown") if judged else "",
    )  # fmt: skip


def _over_training(layers: pd.DataFrame) -> str:
    """Return the table of the layers' medians by epoch."""
    header = ["epoch", "alpha", "gamma", "s", "R2 of alpha", "error of s", "its null", "reliable"]
    lines = []
    for epoch, rows in layers.groupby("epoch", sort=True):
        middle = rows.median(numeric_only=True)
        numbers = [f"{middle[name]:.2f}" for name in ("alpha", "gamma", "s", "alpha_r2")]
        errors = [f"{100 * middle[name]:.1f} %" for name in
                  ("triangle_relative_error", "null_noise_error")]  # fmt: skip
        lines.append(
            [f"{epoch:g}", *numbers, *errors, f"{int(rows['reliable'].sum())}/{len(rows)}"]
        )
    return write(Table(header, lines, markdown=True), "markdown")


def _last(layers: pd.DataFrame) -> str:
    """Return the table of one run's layers at its last epoch."""
    header = ["layer", "shape", "alpha ± se", "R2", "without k = 1", "gamma", "s", "error",
              "rank model", ""]  # fmt: skip
    lines = [
        [
            str(row["layer"]),
            f"{row['rows']}x{row['cols']}",
            f"{row['alpha']:.2f} ± {row['alpha_stderr']:.2f}",
            *(f"{row[name]:.2f}" for name in ("alpha_r2", "alpha_without_first", "gamma", "s")),
            f"{100 * row['triangle_relative_error']:.1f} %",
            str(row["rank_model"]),
            "" if row["reliable"] else "unreliable",
        ]
        for row in layers.to_dict("records")
    ]
    return write(Table(header, lines, "lrrrrrrrll", markdown=True), "markdown")


if __name__ == "__main__":
    cli.run(main)
