"""The figures of a study's page: trainings, and what the learning rate matters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import pandas as pd
from matplotlib.figure import Figure

from analysis.figure.lines import Series, chart
from analysis.figure.seeds import RATES, circumstances, over_seeds, rate_chart, unit_of
from analysis.page.robust import SUBJECT
from analysis.page.table import BASELINES, Results, Row
from analysis.stats import mean, t_interval
from analysis.table.model import in_percent
from analysis.table.timing import SECONDS, far_apart

# What a training is drawn against, and its words.
AXES = {"seconds": "seconds of training", "epoch": "epochs", "tokens": "tokens"}
_SHOWN = 8  # lines that a front picture can hold
SEEDS = 3  # a line has at least: the interval of two says nothing and hides the others
_FIRST = (SUBJECT, *BASELINES)  # the same colours in every figure


def axes(results: Results) -> list[str]:
    """Return the axes: seconds where they may be compared, and tokens for a language, or epochs."""
    steps = "epoch" if in_percent(results.table.metric) else "tokens"
    return ["seconds", steps] if results.timed else [steps]


def training(results: Results, runs: pd.DataFrame, source: str, x: str) -> Figure | None:
    """Return the metric of the histories against ``x``: mean over seeds, band of its 95 % interval.

    Where rows are too many to be told apart: Spectral Newton, those compared with, and the best.

    Args:
        results: the rows.
        runs: the study's report runs.
        source: the archive, where the histories are.
        x: one of `AXES`; seconds are those of training, at the median speed of a row.

    Returns:
        None where no run has a history.
    """
    metric = results.table.metric
    percent, rows = in_percent(metric), drawn(results, x)
    places = colours([row.label for row in rows])
    lines: list[Series] = []
    for row in rows:
        unit = _epoch(row, runs, x)
        one = over_seeds(row.label, places[row.label], source=source, run_ids=row.cell.run_ids,
                         metric=metric, unit=unit)  # fmt: skip
        lines += [one] if one else []
    lines.sort(key=lambda line: -line.middle[-1] if percent else line.middle[-1])
    log = x == "seconds" and far_apart([line.x[-1] for line in lines])
    shown = runs[runs["id"].isin([one for row in rows for one in row.cell.run_ids])]
    return chart(
        [_with_its_end(line, 2 if percent else 3) for line in lines],
        title=f"{results.model} on {results.dataset}",
        detail=f"{metric} against {AXES[x]}; {circumstances(shown)}",
        x_label=f"{AXES[x]} (logarithmic)" if log else AXES[x],
        y_label=unit_of(metric), log=log, falling=not percent,
    )  # fmt: skip


def _with_its_end(line: Series, digits: int) -> Series:
    """Return a line whose label says where it ends: "94.07  spectral_newton"."""
    return replace(line, label=f"{line.middle[-1]:.{digits}f}  {line.label}")


def colours(labels: Sequence[str]) -> dict[str, int]:
    """Return the place of each line: `_FIRST` have the first ones, the others follow by name."""
    others = sorted(set(labels) - set(_FIRST))
    return {name: place for place, name in enumerate([*_FIRST, *others])}


def drawn(results: Results, x: str) -> list[Row]:
    """Return the rows to draw, at most `_SHOWN`: baselines and Spectral Newton, then the best.

    Rows of few seeds are left out where others have more, and those without what ``x`` asks.
    """
    sign = -1 if in_percent(results.table.metric) else 1
    enough = min(SEEDS, max((row.cell.n for row in results.rows), default=0))
    able = [row for row in results.rows if row.cell.n >= max(enough, 1)]
    able = [row for row in able if row.cell.seconds or x != "seconds"]
    named = [n for name in (SUBJECT, *results.baselines) for n in able if n.label == name]
    rest = sorted((row for row in able if row not in named), key=lambda r: sign * r.cell.mean)
    return [*named, *rest][:_SHOWN]


def missing(results: Results, x: str) -> list[str]:
    """Return the rows with results that the figure against ``x`` leaves out."""
    shown = drawn(results, x)
    return [row.label for row in results.rows if row.cell.n and row not in shown]


def _epoch(row: Row, runs: pd.DataFrame, x: str) -> float:
    """Return what an epoch of the row is on the axis ``x``: 1, its tokens, or its seconds."""
    if x == "epoch":
        return 1.0
    if x == "seconds":
        return row.cell.seconds_per_epoch
    here = runs[runs["id"].isin(row.cell.run_ids)]
    return float(median(here[SECONDS] * here["tokens_per_second"]))


def best_trials(tuning: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return for each optimizer and learning rate the best of its other settings, over its seeds.

    Columns `RATES`: value is the mean of ``metric``, what the tuning was scored by; low and high
    are its 95 % interval, NaN for one seed. A rate of which every trial diverged has NaN.
    """
    sign = 1 if metric.endswith("accuracy") else -1
    rows = []
    if "config.optimizer.lr" not in tuning or metric not in tuning:
        return pd.DataFrame(columns=RATES)
    for (optimizer, rate), group in tuning.groupby(["optimizer", "config.optimizer.lr"], sort=True):
        best, ends = math.nan, (math.nan, math.nan)
        for _, trial in group.groupby("variant", sort=True):
            whole = (trial["state"] == "done").all() and trial[metric].notna().all()
            value = mean(trial[metric].to_numpy()) if whole else math.nan
            if whole and not sign * value <= sign * best:
                best, ends = value, t_interval(trial[metric].to_numpy())
        rows.append((optimizer, rate, best, *ends))
    return pd.DataFrame(rows, columns=RATES)


def sensitivity(tuning: pd.DataFrame, metric: str) -> Figure | None:
    """Return ``metric`` of one dataset's and model's tuning against the learning rate.

    As of `best_trials`; None where no optimizer has two rates.
    """
    model, dataset = tuning["model"].iloc[0], tuning["dataset"].iloc[0]
    places = colours([str(name) for name in tuning["optimizer"]])
    return rate_chart(
        best_trials(tuning, metric), places, metric,
        title=f"{model} on {dataset}, tuning", detail=circumstances(tuning),
    )  # fmt: skip
