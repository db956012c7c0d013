"""One self-contained HTML page of everything that was measured: no server, no network.

spectral-bench report source=runs sweep=digits baseline=adamw out=report.html
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pydantic import Field

from analysis.command.messages import user_messages, writing
from analysis.command.options import ComparisonOptions
from analysis.page import selection
from analysis.page.report import page as page_of
from analysis.runs import load_runs
from analysis.table.model import Spread
from analysis.table.select import of_sweep
from bench import options as cli


class ReportOptions(ComparisonOptions):
    """Options of ``spectral-bench report``."""

    spread: Spread = Field("interval", description="beside each mean; std: standard deviation")
    title: str = Field("Optimizers compared", description="of the page")
    out: Path = Field(Path("report.html"), description="the page")


def main(argv: list[str]) -> None:
    """Write the page."""
    options = cli.parse(
        ReportOptions,
        argv,
        prog="spectral-bench report",
        description="Write one self-contained HTML page: verdicts, curves, exponents, failures.",
        examples=["source=runs sweep=digits baseline=adamw", "source=wandb:me/spectral-bench",
                  "metric=test/mse better=lower"],
    )  # fmt: skip
    with user_messages(options.source):
        text = page(load_runs(options.source), options)
    with writing(options.out):
        options.out.write_text(text, encoding="utf-8")
    print(f"{options.out}: {len(text) / 1024:.0f} KiB; open it in a browser")


def page(runs: pd.DataFrame, options: ReportOptions) -> str:
    """Return the page of ``runs``; the same runs and options give the same bytes.

    Raises:
        ValueError: as `analysis.table.build.build_table`.
    """
    table = options.table(runs)
    tuning = selection.html(runs, options.sweep)
    shown = of_sweep(runs, options.sweep)
    falling = None if options.better is None else options.better == "lower"
    return page_of(
        table, shown, options.source, title=options.title, falling=falling, tuning=tuning
    )


if __name__ == "__main__":
    cli.run(main)
