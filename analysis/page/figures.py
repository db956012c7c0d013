"""The figures of docs/RESULTS.md: SVG that is read on light and on dark pages alike.

Drawn by our own few lines, not by a plotting library, so that the same runs give the same bytes
with every version of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from statistics import median

import numpy as np
import pandas as pd

from analysis.page.charts import COLOURS, Line, curves
from analysis.page.table import BASELINES, Results, Row
from analysis.page.verdict import SUBJECT
from analysis.runs import load_history
from analysis.stats import mean, t_interval
from analysis.table.model import in_percent, possible
from analysis.table.timing import SECONDS, far_apart

_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b0418a", "#8a6d00", "#a3122f", "#7b4fb5", "#555555")
_DARK = ("#4aa8e8", "#ff8a3d", "#2fc79a", "#e58cc4", "#d6b01f", "#ff6b81", "#b79bea", "#b5b5b5")
_WIDTH, _PLOT, _HEIGHT, _LINE = 900, 640, 300, 18
# What a training is drawn against, and its words.
AXES = {"seconds": "seconds of training", "epoch": "epochs", "tokens": "tokens"}
_SHOWN = 8  # lines that a front picture can hold
_SEEDS = 3  # a line has at least: the interval of two says nothing and hides the others
_FIRST = (SUBJECT, *BASELINES)  # the same colours in every figure


def document(svg: str, legend: Sequence[tuple[str, int]], title: str) -> str:
    """Return a chart of `analysis.page.charts` as a file: with a legend, title and colours.

    Args:
        svg: the chart.
        legend: label and colour of each line, from top to bottom.
        title: the line above.
    """
    height = max(_HEIGHT, _LINE * (len(legend) + 1)) + 34
    chart = svg.replace("<svg ", f'<svg x="0" y="30" width="{_PLOT}" height="{_HEIGHT}" ', 1)
    keys = []
    for place, (label, colour) in enumerate(legend):
        y = 52 + _LINE * place
        dash = " dashed" if colour >= COLOURS else ""
        keys.append(
            f'<path class="line c{colour % COLOURS}{dash}" d="M{_PLOT + 8} {y - 4}h18"/>'
            f'<text x="{_PLOT + 32}" y="{y}">{escape(label)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        f' width="{_WIDTH}" height="{height}" font-family="system-ui, sans-serif">\n'
        f"<style>{_style()}</style>\n"
        f'<rect class="page" width="{_WIDTH}" height="{height}" rx="8"/>\n'
        f'<text class="title" x="56" y="20">{escape(title)}</text>\n{chart}\n'
        + "\n".join(keys)
        + "\n</svg>\n"
    )


def _style() -> str:
    def colours(values: Sequence[str]) -> str:
        return "".join(
            f".line.c{k}{{stroke:{colour}}}.band.c{k}{{fill:{colour}}}"
            for k, colour in enumerate(values)
        )

    light = "text{fill:#424a53}.title{fill:#1f2328}.page{fill:#fff}.grid{stroke:#d9dee3}"
    dark = "text{fill:#9da7b1}.title{fill:#e6edf3}.page{fill:#0d1117}.grid{stroke:#30363d}"
    fixed = (
        "text{font-size:12px}.title{font-size:14px;font-weight:600}.end{text-anchor:end}"
        ".middle{text-anchor:middle}.grid{fill:none}.band{opacity:.16;stroke:none}"
        ".line{fill:none;stroke-width:2;stroke-linejoin:round}.dashed{stroke-dasharray:6 4}"
    )
    night = f"@media (prefers-color-scheme:dark){{{dark}{colours(_DARK)}}}"
    return f"{fixed}{light}{colours(_LIGHT)}{night}"


def axes(found: Results) -> list[str]:
    """Return the axes for ``found``: seconds where they may be compared; tokens for a language."""
    steps = "epoch" if in_percent(found.table.metric) else "tokens"
    return ["seconds", steps] if found.timed else [steps]


def training(found: Results, runs: pd.DataFrame, source: str, x: str, *, title: str) -> str:
    """Return the metric of the histories against ``x``: mean over seeds, band of its 95 % interval.

    Where rows are too many to be told apart: Spectral Newton, those compared with, and the best.

    Args:
        found: the rows.
        runs: the study's report runs.
        source: the archive, where the histories are.
        x: one of `AXES`; seconds are those of training, at the median speed of a row.
        title: of the figure.

    Returns:
        The SVG; empty where no run has a history.
    """
    metric = found.table.metric
    rows = _drawn(found, x)
    colour = colours([row.label for row in rows])
    made = [
        _line(row, colour[row.label], source=source, metric=metric, epoch=_epoch(row, runs, x))
        for row in rows
    ]
    lines = [line for line in made if line is not None]
    unit = " (%)" if in_percent(metric) else ""
    percent = in_percent(metric)
    log = x == "seconds" and far_apart([line.x[-1] for line in lines])
    svg = curves(
        lines, x_label=AXES[x] + (" (logarithmic)" if log else ""), y_label=metric + unit,
        x_text=_tick, log=log, falling=not percent,
    )  # fmt: skip
    if not svg:
        return ""
    last = sorted(lines, key=lambda line: -line.middle[-1] if percent else line.middle[-1])
    digits = 2 if percent else 3
    legend = [(f"{line.middle[-1]:.{digits}f}  {line.label}", line.colour) for line in last]
    return document(svg, legend, title)


def _tick(value: float) -> str:
    """Return a number of an axis; millions of tokens as "8 M"."""
    return f"{value / 1e6:g} M" if abs(value) >= 1e6 else f"{value:g}"


def colours(labels: Sequence[str]) -> dict[str, int]:
    """Return the colour of each line: `_FIRST` have the first ones, the others follow by name."""
    others = sorted(set(labels) - set(_FIRST))
    return {name: place for place, name in enumerate([*_FIRST, *others])}


def _drawn(found: Results, x: str) -> list[Row]:
    """Return the rows to draw, at most `_SHOWN`: baselines and Spectral Newton, then the best.

    Rows of few seeds are left out where others have more, and those without what ``x`` asks.
    """
    sign = -1 if in_percent(found.table.metric) else 1
    enough = min(_SEEDS, max((row.cell.n for row in found.rows), default=0))
    able = [row for row in found.rows if row.cell.n >= max(enough, 1)]
    able = [row for row in able if row.cell.seconds or x != "seconds"]
    named = [n for name in (SUBJECT, *found.baselines) for n in able if n.label == name]
    rest = sorted((row for row in able if row not in named), key=lambda r: sign * r.cell.mean)
    return [*named, *rest][:_SHOWN]


def words(found: Results) -> str:
    """Return what the figures of ``found`` show."""
    told = (
        "Lines are means over seeds, bands their 95 % intervals (Student's t); rows of fewer than"
        f" {_SEEDS} seeds are not drawn where others have more. Seconds are epochs times the"
        " table's s/epoch."
    )
    parts = [told, *(missing(found, x) for x in axes(found))]
    return " ".join(part for part in parts if part) + "\n"


def missing(found: Results, x: str) -> str:
    """Return which rows with results the figure against ``x`` leaves out; empty for none."""
    shown = _drawn(found, x)
    absent = [f"`{row.label}`" for row in found.rows if row.cell.n and row not in shown]
    if not absent:
        return ""
    return f"Not drawn against {AXES[x]}: {', '.join(absent)}."


def _epoch(row: Row, runs: pd.DataFrame, x: str) -> float:
    """Return what an epoch of the row is on the axis ``x``: 1, its tokens, or its seconds."""
    if x == "epoch":
        return 1.0
    if x == "seconds":
        return row.cell.seconds_per_epoch
    here = runs[runs["id"].isin(row.cell.run_ids)]
    return float(median(here[SECONDS] * here["tokens_per_second"]))


def _line(row: Row, colour: int, *, source: str, metric: str, epoch: float) -> Line | None:
    """Return a row's line, its epochs ``epoch`` long."""
    series = []
    for run_id in row.cell.run_ids:
        history = load_history(source, run_id)
        if metric in history:
            series.append(history.dropna(subset=[metric]).set_index("epoch")[metric])
    if not series:
        return None
    whole = pd.concat(series, axis=1, join="inner").sort_index()
    values = (100.0 if in_percent(metric) else 1.0) * whole.to_numpy(dtype=np.float64)
    at = epoch * whole.index.to_numpy(dtype=np.float64)
    ends = possible(metric, np.array([t_interval(one) for one in values]))
    middle = np.array([mean(one) for one in values])
    low, high = np.where(np.isnan(ends), middle[:, None], ends).T
    return Line(row.label, colour, at, middle, low, high)


def best_trials(tuning: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return for each optimizer and learning rate the best of its other settings, over its seeds.

    Columns: optimizer, lr, value (the mean of ``metric``, what the tuning was scored by), low, high
    (its 95 % interval, NaN for one seed); a rate of which every trial diverged has NaN.
    """
    sign = 1 if metric.endswith("accuracy") else -1
    rows = []
    if "config.optimizer.lr" not in tuning or metric not in tuning:
        return pd.DataFrame(columns=["optimizer", "lr", "value", "low", "high"])
    for (optimizer, rate), group in tuning.groupby(["optimizer", "config.optimizer.lr"], sort=True):
        best, ends = math.nan, (math.nan, math.nan)
        for _, trial in group.groupby("variant", sort=True):
            whole = (trial["state"] == "done").all() and trial[metric].notna().all()
            value = mean(trial[metric].to_numpy()) if whole else math.nan
            if whole and not sign * value <= sign * best:
                best, ends = value, t_interval(trial[metric].to_numpy())
        rows.append((optimizer, rate, best, *ends))
    return pd.DataFrame(rows, columns=["optimizer", "lr", "value", "low", "high"])


def sensitivity(tuning: pd.DataFrame, metric: str, *, title: str) -> str:
    """Return ``metric`` against the learning rate, as of `best_trials`.

    Empty where no optimizer has two rates.
    """
    scale = 100.0 if in_percent(metric) else 1.0
    lines = []
    colour = colours([str(name) for name in tuning["optimizer"]])
    for name, points in best_trials(tuning, metric).groupby("optimizer", sort=True):
        good = points.dropna(subset=["value"])
        middle = scale * good["value"].to_numpy(dtype=np.float64)
        ends = possible(metric, scale * good[["low", "high"]].to_numpy(dtype=np.float64).T)
        low, high = np.where(np.isnan(ends), middle, ends)
        at = good["lr"].to_numpy(dtype=np.float64)
        lines.append(Line(str(name), colour[str(name)], at, middle, low, high))
    unit = " (%)" if in_percent(metric) else ""
    svg = curves(
        lines, x_label="learning rate", y_label=metric + unit,
        log=True, falling=not in_percent(metric),
    )  # fmt: skip
    legend = [(line.label, line.colour) for line in lines if len(line.x) > 1]
    return document(svg, legend, title) if svg else ""
