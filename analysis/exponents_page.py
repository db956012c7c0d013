"""A page of exponents over training, with its figure, from an archive of measured runs.

    spectral-bench exponents-page name=exponents_resnet18 source=<folder of runs>
    spectral-bench exponents-page name=exponents_resnet18

The first gathers the runs in docs/measurements/<name>.parquet; both write docs/<name>.md and
docs/figures/<name>.png from that file alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from pydantic import Field

from analysis.claim.check import check
from analysis.claim.model import load_claims
from analysis.claim.render import render as render_claims
from analysis.command.messages import user_messages
from analysis.figure.exponents import alpha_training
from analysis.figure.style import save, styled
from analysis.run import archive as run_archive
from analysis.run import measured
from analysis.run.measured import Measured, last_epochs
from bench import options as cli
from bench.errors import UserError
from bench.files import write_atomically

PROG = "python -m analysis.exponents_page"


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
            found = measured.load([str(archive)])
            if found.layers.empty:
                raise UserError(f"{archive}: no exponents were measured in these runs")
            figure = options.docs / "figures" / f"{options.name}.png"
            with styled():
                save(alpha_training(found), figure)
            page = options.docs / f"{options.name}.md"
            text = "\n".join(_page(found, options.name))
            write_atomically(page, lambda stream: stream.write(text.encode()))
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}") from error
    print(f"{figure}\n{page}")


def _page(found: Measured, name: str) -> Iterator[str]:
    """Yield the lines of the page."""
    layers, runs = found.layers, found.runs
    networks = sorted({f"{m} on {d}" for m, d in zip(runs["model"], runs["dataset"], strict=True)})
    yield f"# Exponents over training: {', '.join(networks)}"
    yield ""
    yield (
        f"Measured as the runs trained (`trainer.curvature_every`), exactly, on "
        f"{len(runs)} run{'s' * (len(runs) > 1)}: "
        + ", ".join(f"`{run}`" for run in sorted(runs["id"]))
        + f". This page and its figure are made by `{PROG} name={name}` from "
        f"[measurements/{name}.parquet](measurements/{name}.parquet); "
        "[curvature.md](curvature.md) says what the quantities are."
    )
    yield ""
    yield f"![alpha of each layer over training](figures/{name}.png)"
    yield from _over_training(layers)
    yield from _last(last_epochs(layers))
    yield from _claims(found)


def _over_training(layers: pd.DataFrame) -> Iterator[str]:
    """Yield the table of the layers' medians by epoch."""
    yield ""
    yield "## Over training: medians over layers and runs"
    yield ""
    yield "| epoch | alpha | gamma | s | R2 of alpha | error of s | its null | reliable |"
    yield "|---|---|---|---|---|---|---|---|"
    for epoch, rows in layers.groupby("epoch", sort=True):
        middle = rows.median(numeric_only=True)
        numbers = [f"{middle[name]:.2f}" for name in ("alpha", "gamma", "s", "alpha_r2")]
        errors = [
            f"{100 * middle[name]:.1f} %"
            for name in ("triangle_relative_error", "null_noise_error")
        ]
        reliable = f"{int(rows['reliable'].sum())}/{len(rows)}"
        yield "| " + " | ".join([f"{epoch:g}", *numbers, *errors, reliable]) + " |"
    yield ""
    yield (
        "Error of s: abs(s - alpha gamma) / s. Its null: the same error where h is a power law of "
        "sigma with noise of the same size; an identity that its null obeys as well says nothing "
        "of its own."
    )


def _last(layers: pd.DataFrame) -> Iterator[str]:
    """Yield the table of the layers at the last epoch, of the first run."""
    run = sorted(set(layers["run"]))[0]
    yield ""
    yield f"## At the last epoch: `{run}`"
    yield ""
    yield "| layer | shape | alpha ± se | R2 | without k = 1 | gamma | s | error | rank model | |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in layers[layers["run"] == run].to_dict("records"):
        cells = [
            str(row["layer"]),
            f"{row['rows']}x{row['cols']}",
            f"{row['alpha']:.2f} ± {row['alpha_stderr']:.2f}",
            *(f"{row[name]:.2f}" for name in ("alpha_r2", "alpha_without_first", "gamma", "s")),
            f"{100 * row['triangle_relative_error']:.1f} %",
            str(row["rank_model"]),
            "" if row["reliable"] else "unreliable",
        ]
        yield "| " + " | ".join(cells) + " |"


def _claims(found: Measured) -> Iterator[str]:
    """Yield the claims that these runs test, on whatever data they are."""
    results = [check(claim, found, other_data=True) for claim in load_claims()]
    tested = [result for result in results if result.verdict != "not measured"]
    if tested:
        yield ""
        yield "## The preprint's claims on these runs (on these data, not always the stated ones)"
        yield ""
        yield render_claims(tested, "markdown").rstrip("\n")
    yield ""


if __name__ == "__main__":
    cli.run(main)
