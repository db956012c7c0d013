"""One self-contained HTML page of everything that was measured: no server, no network.

spectral-bench report source=runs sweep=digits baseline=adamw out=report.html
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pydantic import Field

from analysis.command.messages import user_messages, writing
from analysis.command.options import ComparisonOptions
from analysis.figure.seeds import circumstances
from analysis.figure.style import svg
from analysis.page import report as report_data
from analysis.page.text import render
from analysis.run.archive import local
from analysis.runs import load_runs
from analysis.table.build import direction
from analysis.table.model import Spread, in_percent
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
        description="Write one self-contained HTML page: leaderboard, curves, exponents, failures.",
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
    if options.sweep is not None:
        runs = runs[runs["sweep"] == options.sweep]
    source = local(options.source)
    falling = options.better == "lower" or (
        options.better is None and direction(options.metric) < 0
    )
    rows = report_data.rows(table, runs, source, falling=falling)
    return render(
        "report.html.j2",
        title=options.title,
        metric=options.metric,
        unit=" (%)" if in_percent(options.metric) else "",
        baseline=", ".join(options.baseline),
        interval=options.spread == "interval",
        rows=rows,
        runs=len(runs),
        charts=_charts(rows, runs, source, options.metric, falling),
        exponents=report_data.exponents(rows, source),
        failures=report_data.failures(runs, source),
        provenance=report_data.provenance(runs),
        notes=table.notes,
        choices={
            name: sorted({getattr(row, name) for row in rows})
            for name in ("dataset", "model", "optimizer")
        },
    )


def _charts(
    rows: list[report_data.Row], runs: pd.DataFrame, source: str, metric: str, falling: bool
) -> list[dict[str, str]]:
    """Return a chart for each dataset and model whose runs have a history of the metric."""
    charts = []
    for dataset, model in sorted({(row.dataset, row.model) for row in rows}):
        here = [row for row in rows if (row.dataset, row.model) == (dataset, model)]
        detail = circumstances(runs[(runs["dataset"] == dataset) & (runs["model"] == model)])
        figure = report_data.chart_of(here, source, metric, detail, falling=falling)
        if figure is not None:
            figure.set_label(f"{dataset} / {model}: {metric} against epochs")
            charts.append({"dataset": dataset, "model": model, "svg": svg(figure)})
    return charts


if __name__ == "__main__":
    cli.run(main)
