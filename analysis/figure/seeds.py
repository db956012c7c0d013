"""What the figures draw: each function takes the runs' frame and returns a figure."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figure.style import legend, logarithmic, look, marker, new_axes
from analysis.run.frame import RunWarning
from analysis.runs import load_history
from analysis.stats import mean, t_interval
from analysis.table.build import build_table
from analysis.table.model import Cell, Table, in_percent, possible
from analysis.table.select import performance_profile
from analysis.table.timing import SECONDS, far_apart

_UNITS = {"epoch": "epoch", "step": "step", "seconds": "seconds of training", "flops": "FLOPs"}


def curves(runs: pd.DataFrame, source: str, metric: str, x: str) -> Figure:
    """Draw ``metric`` of the histories against ``x``: mean over seeds, band of its 95 % interval.

    "seconds" are epochs times the row's median seconds an epoch, as tables show them; "flops" are
    the run's total, spread evenly over its steps. Rows without seconds are left out with a warning.

    Raises:
        ValueError: no run has such a history, or times that cannot be compared.
    """
    table = build_table(runs, metric=_any_metric(runs))
    by_id = {str(run["id"]): run for run in runs.to_dict("records")}
    if x == "seconds":
        _require_seconds(table)
    figure, axes = new_axes()
    scale = 100.0 if in_percent(metric) else 1.0
    for index, (label, (cell,)) in enumerate(zip(table.rows, table.cells, strict=True)):
        if x == "seconds" and math.isnan(cell.seconds_per_epoch):
            continue
        series = []
        for run_id in cell.run_ids:
            history = load_history(source, run_id)
            if metric in history:
                rows = history.dropna(subset=[metric])
                along = _along(rows, by_id[run_id], cell, x)
                series.append((along, scale * rows[metric].to_numpy()))
        if not series:
            continue
        shortest = min(len(values) for _, values in series)
        values = np.array([values[:shortest] for _, values in series])
        at = np.mean([along[:shortest] for along, _ in series], axis=0)
        axes.plot(at, values.mean(axis=0), label=label, **look(index))
        if len(series) > 1:
            ends = possible(metric, np.array([t_interval(column) for column in values.T]))
            axes.fill_between(at, ends[:, 0], ends[:, 1], alpha=0.15, color=look(index)["color"])
    if not axes.lines:
        raise ValueError(f"no run here has a history of {metric}")
    last = [float(np.asarray(line.get_xdata())[-1]) for line in axes.lines]
    _label(axes, _UNITS[x], metric, seconds=last if x == "seconds" else ())
    legend(figure, axes)
    return figure


def sensitivity(runs: pd.DataFrame, metric: str) -> Figure:
    """Draw ``metric`` against the learning rate, one line an optimizer: mean and 95 % interval.

    Rates at which a seed diverged are marked with a cross on the lower edge.

    Raises:
        ValueError: the runs have one learning rate only.
    """
    if "config.optimizer.lr" not in runs or runs["config.optimizer.lr"].nunique() < 2:
        raise ValueError("a sensitivity needs runs of several optimizer.lr")
    figure, axes = new_axes()
    scale = 100.0 if in_percent(metric) else 1.0
    for index, (name, of_one) in enumerate(runs.groupby("optimizer", sort=True)):
        points: list[tuple[float, float, float, float]] = []
        lost = []
        for rate, group in of_one.groupby("config.optimizer.lr"):
            done = group[group["state"] == "done"][metric].dropna()
            if (group["state"] == "diverged").any():
                lost.append(float(rate))  # type: ignore[arg-type]
            if len(done):
                low, high = possible(metric, t_interval(scale * done.to_numpy()))
                points.append((float(rate), scale * mean(done.to_numpy()), low, high))  # type: ignore[arg-type]
        if not points:
            continue
        at, middle, low_ends, high_ends = np.array(sorted(points)).T
        axes.plot(at, middle, marker="o", markersize=4, label=str(name), **look(index))
        axes.fill_between(at, low_ends, high_ends, alpha=0.15, color=look(index)["color"])
        edge = axes.get_xaxis_transform()
        axes.scatter(
            lost, [0.02] * len(lost), marker="x", color=look(index)["color"], transform=edge
        )
    axes.set_xscale("log")
    _label(axes, "learning rate (x: a seed diverged)", metric)
    legend(figure, axes)
    return figure


def cost(runs: pd.DataFrame, metric: str) -> Figure:
    """Draw ``metric`` against seconds per epoch, one point a row, with the metric's interval.

    Rows without seconds are left out, with a warning.

    Raises:
        ValueError: no run has both, or the times cannot be compared.
    """
    table = build_table(runs, metric=metric, spread="interval")
    _require_seconds(table)
    figure, axes = new_axes()
    scale = 100.0 if in_percent(metric) else 1.0
    for index, (label, (cell,)) in enumerate(zip(table.rows, table.cells, strict=True)):
        if not cell.n or math.isnan(cell.seconds_per_epoch):
            continue
        middle, (low, high) = scale * cell.mean, possible(metric, scale * np.array(cell.interval))
        errors = None if math.isnan(low) else [[middle - low], [high - middle]]
        shape: dict[str, Any] = {"linestyle": "", "capsize": 3, **marker(index)}
        axes.errorbar([cell.seconds_per_epoch], [middle], yerr=errors, label=label, **shape)
    times = [cell.seconds_per_epoch for (cell,) in table.cells if cell.seconds]
    _label(axes, "seconds per epoch", metric, seconds=times)
    legend(figure, axes)
    return figure


def profile(runs: pd.DataFrame, measure: str) -> Figure:
    """Draw, for each row, the share of problems on which it is within a factor of the best.

    A problem is a dataset and model; a row's cost is its median time to the target, misses
    censored. Rows without seconds to compare on a problem are left out with a warning: they did
    not miss the target.

    Raises:
        ValueError: no run states a target, or no row has seconds on every problem.
    """
    if "target/reached" not in runs:
        raise ValueError("no run here states a target; set trainer.target or use conf/targets.yaml")
    metric = f"target/{measure}"
    every = build_table(runs, metric=metric, mix_timing=True)
    table = build_table(runs, metric=metric) if measure == "seconds" else every
    known = dict(zip(table.rows, table.cells, strict=True))
    without = [
        label for label, row in zip(every.rows, every.cells, strict=True)
        if any(cell.n and not mine.n for cell, mine in zip(row, known[label], strict=True))
    ]  # fmt: skip
    shown = {label: row for label, row in known.items() if label not in without}
    if not shown:
        raise ValueError("no row has seconds to compare on every problem; choose runs with sweep=")
    _warn(without)
    costs = _costs(shown.values())
    ratios = np.geomspace(1, 4, 200)
    figure, axes = new_axes()
    for index, (label, shares) in enumerate(
        zip(shown, performance_profile(costs, ratios), strict=True)
    ):
        axes.step(ratios, shares, where="post", label=label, **look(index))
    axes.set(xlim=(1, 4), ylim=(-0.02, 1.02))
    axes.set_xlabel(f"within this factor of the best {_UNITS[measure]} to target")
    axes.set_ylabel(f"share of {costs.shape[1]} problems")
    legend(figure, axes)
    return figure


def _costs(rows: Iterable[Sequence[Cell]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([[cell.mean if cell.n else math.inf for cell in row] for row in rows])


def _warn(without: Sequence[str]) -> None:
    if without:
        told = f"left out, since their runs have no seconds to compare: {', '.join(without)}"
        warnings.warn(told, RunWarning, stacklevel=2)


def _any_metric(runs: pd.DataFrame) -> str:
    """Return a summary column that every finished run has, by which to find the rows."""
    return "epochs" if "epochs" in runs else "steps"


def _along(rows: pd.DataFrame, run: dict[Any, Any], cell: Cell, x: str) -> np.ndarray[Any, Any]:
    if x in ("epoch", "step"):
        return rows[x].to_numpy(dtype=np.float64)
    if x == "seconds":
        return rows["epoch"].to_numpy() * cell.seconds_per_epoch
    if "flops/total" not in run or pd.isna(run["flops/total"]):
        raise ValueError(f"{run['id']} did not count its FLOPs; use x=epoch")
    return rows["step"].to_numpy() * float(run["flops/total"]) / float(run["steps"])


def _require_seconds(table: Table) -> None:
    """Warn of rows of a table of one column that have no seconds to compare.

    Raises:
        ValueError: no row has any.
    """
    cells = dict(zip(table.rows, (cell for (cell,) in table.cells), strict=True))
    if any(cell.seconds for cell in cells.values()):
        _warn([row for row, cell in cells.items() if cell.n and not cell.seconds])
        return
    if why := table.timing[0].mixed:
        raise ValueError(f"times cannot be compared: {why}; choose runs with sweep=")
    raise ValueError(f"no finished run here has both {table.metric} and {SECONDS}")


def _label(axes: Axes, x: str, metric: str, *, seconds: Sequence[float] = ()) -> None:
    """Name the axes; x is logarithmic where the ``seconds`` that it has to show lie far apart."""
    if far_apart(seconds):
        logarithmic(axes)
        x += " (logarithmic)"
    axes.set_xlabel(x)
    axes.set_ylabel(f"{metric} (%)" if in_percent(metric) else metric)
