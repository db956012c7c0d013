"""Figures over seeds: training curves, learning-rate sensitivity, profiles, cost; and curvature.

spectral-bench figures kind=curves source=runs sweep=digits x=seconds
spectral-bench figures kind=sensitivity source=runs sweep=tune out=lr.pdf
spectral-bench figures kind=curvature source=runs out=figures
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field

from analysis.command.messages import user_messages
from analysis.command.options import RunOptions
from analysis.figure import curvature, seeds
from analysis.figure.style import save, styled
from analysis.runs import load_runs
from bench import options as cli
from bench.errors import UserError


class FigureOptions(RunOptions):
    """Options of ``spectral-bench figures``."""

    kind: Literal["curves", "sensitivity", "profile", "cost", "curvature"] = Field(
        "curves",
        description="metric against x; against the learning rate; share of problems within a"
        " factor of the fastest to the target; metric against seconds per epoch; all figures of"
        " what analysis.curvature measured",
    )
    dataset: str | None = Field(None, description="only this dataset; needed where there are more")
    model: str | None = Field(None, description="only this model; likewise")
    metric: str = Field("test/accuracy", description="a number of summaries, or of histories")
    x: Literal["epoch", "step", "seconds", "flops"] = Field(
        "epoch", description="curves: against what; seconds: of training, at the row's s/epoch"
    )
    profile: Literal["step", "epoch", "seconds", "flops"] = Field(
        "seconds", description="profile: the cost of reaching the target"
    )
    ylim: list[float] | None = Field(
        None,
        description="low,high of the metric's axis, in its unit (percent): 92,95",
    )
    out: Path = Field(
        Path("figure.png"), description="the figure: .png, .svg or .pdf; curvature: a folder"
    )


def main(argv: list[str]) -> None:
    """Draw the figure."""
    options = cli.parse(
        FigureOptions,
        argv,
        prog="spectral-bench figures",
        description="Draw one figure over seeds.",
        examples=["kind=curves source=runs sweep=digits x=seconds", "kind=cost out=cost.pdf",
                  "kind=curvature source=runs out=figures"],
    )  # fmt: skip
    if options.ylim is not None:
        _check_range(options.ylim, options.kind)
    if options.kind == "curvature":
        _draw_curvature(options)
        return
    if options.out.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"out={options.out}: name a .png, .svg or .pdf file")
    with user_messages(options.source), styled():
        figure = _drawn(_chosen(options), options)
        if options.ylim is not None:
            figure.axes[0].set_ylim(*options.ylim)
        try:
            save(figure, options.out)
        except OSError as error:
            raise UserError(f"out={options.out}: {error.strerror}; name another file") from error
    print(options.out)


def _check_range(ylim: Sequence[float], kind: str) -> None:
    """Raise a `UserError` for what is no range, or where no metric is drawn upwards."""
    option = f"ylim={','.join(f'{end:g}' for end in ylim)}"
    if kind in ("profile", "curvature"):
        raise UserError(f"{option}: kind={kind} draws no metric; leave ylim out")
    if len(ylim) != 2 or not all(map(math.isfinite, ylim)) or ylim[0] >= ylim[1]:
        raise UserError(f"{option}: give two numbers, the lower first: ylim=92,95")


def _draw_curvature(options: FigureOptions) -> None:
    """Draw every figure of the measured tables in ``source``, a folder or ``a.parquet,b.parquet``.

    Raises:
        UserError: nothing is measured there, or the folder cannot be written.
    """
    out = options.out
    if out == Path("figure.png"):
        out = Path("figures")
    if out.suffix in (".png", ".svg", ".pdf"):
        raise UserError(f"out={out}: kind=curvature draws several figures; name a folder")
    with user_messages():
        try:
            lines = list(curvature.draw(options.source.split(","), out))
        except OSError as error:
            raise UserError(f"out={out}: {error.strerror}; name another folder") from error
    print("\n".join(lines))  # not above: a reader that has gone is no error of the folder


def _chosen(options: FigureOptions) -> pd.DataFrame:
    """Return the runs that the options choose; all but a profile are of one dataset and model."""
    runs = load_runs(options.source)
    for name in ("sweep", "dataset", "model"):
        wanted = getattr(options, name)
        if wanted is not None:
            known = sorted(set(runs[name].dropna()))
            runs = runs[runs[name] == wanted]
            if runs.empty:
                raise ValueError(
                    f"no runs with {name}={wanted}; here: {', '.join(known) or 'none'}"
                )
    if runs.empty:
        raise ValueError("no runs there; make some with `spectral-bench train ...`")
    if options.kind != "profile":
        for name in ("dataset", "model"):
            several = sorted(set(runs[name].dropna()))
            if len(several) > 1:
                raise ValueError(f"several {name}s; choose one with {name}={several[0]}")
    return runs


def _drawn(runs: pd.DataFrame, options: FigureOptions) -> Figure:
    if options.kind == "curves":
        return seeds.curves(runs, options.source, options.metric, options.x)
    if options.kind == "sensitivity":
        return seeds.sensitivity(runs, options.metric)
    if options.kind == "cost":
        return seeds.cost(runs, options.metric)
    return seeds.profile(runs, options.profile)


if __name__ == "__main__":
    cli.run(main)
