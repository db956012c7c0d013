"""One self-contained HTML page of everything that was measured: no server, no network.

python -m analysis.report source=runs sweep=digits baseline=adamw out=report.html
"""

from __future__ import annotations

from pathlib import Path

import jinja2
import pandas as pd
from pydantic import Field

from analysis.command.messages import user_messages
from analysis.figure.seeds import circumstances
from analysis.figure.style import svg
from analysis.page import report as report_data
from analysis.run.archive import local
from analysis.runs import load_runs
from analysis.table.build import build_table
from analysis.table.model import in_percent
from bench import options as cli
from bench.errors import UserError
from bench.tuning.spec import looks_of


class ReportOptions(cli.Options):
    """Options of ``python -m analysis.report``."""

    source: str = Field("runs", description="folder, archives, offline:<folder> or wandb:<e>/<p>")
    sweep: str | None = Field(None, description="only the runs of this sweep")
    metric: str = Field("test/accuracy", description="a number of the runs' summaries")
    baseline: str | None = Field(None, description="compare with this row, paired by seed")
    title: str = Field("Optimizers compared", description="of the page")
    out: Path = Field(Path("report.html"), description="the page")


def main(argv: list[str]) -> None:
    """Write the page."""
    options = cli.parse(
        ReportOptions,
        argv,
        prog="python -m analysis.report",
        description="Write one self-contained HTML page: leaderboard, curves, exponents, failures.",
        examples=["source=runs sweep=digits baseline=adamw", "source=wandb:me/spectral-bench"],
    )
    with user_messages(options.source):
        text = page(load_runs(options.source), options)
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"out={options.out}: {error.strerror}; name another file") from error
    print(f"{options.out}: {len(text) / 1024:.0f} KiB; open it in a browser")


def page(runs: pd.DataFrame, options: ReportOptions) -> str:
    """Return the page of ``runs``; the same runs and options give the same bytes.

    Raises:
        ValueError: as `analysis.table.build.build_table`.
    """
    table = build_table(
        runs, metric=options.metric, sweep=options.sweep, baseline=options.baseline,
        spread="interval", looks=looks_of(options.sweep or ""),
    )  # fmt: skip
    if options.sweep is not None:
        runs = runs[runs["sweep"] == options.sweep]
    source = local(options.source)
    rows = report_data.rows(table, runs, source)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.page"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("report.html").render(
        title=options.title,
        metric=options.metric,
        unit=" (%)" if in_percent(options.metric) else "",
        baseline=options.baseline,
        rows=rows,
        runs=len(runs),
        charts=_charts(rows, runs, source, options.metric),
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
    rows: list[report_data.Row], runs: pd.DataFrame, source: str, metric: str
) -> list[dict[str, str]]:
    """Return a chart for each dataset and model whose runs have a history of the metric."""
    charts = []
    for dataset, model in sorted({(row.dataset, row.model) for row in rows}):
        here = [row for row in rows if (row.dataset, row.model) == (dataset, model)]
        detail = circumstances(runs[(runs["dataset"] == dataset) & (runs["model"] == model)])
        figure = report_data.chart_of(here, source, metric, detail)
        if figure is not None:
            figure.set_label(f"{dataset} / {model}: {metric} against epochs")
            charts.append({"dataset": dataset, "model": model, "svg": svg(figure)})
    return charts


if __name__ == "__main__":
    cli.run(main)
