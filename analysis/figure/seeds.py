"""Figures over seeds: each function takes the runs' frame and returns a figure."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figure.lines import Series, chart
from analysis.figure.style import legend, logarithmic, look, marker, new_axes
from analysis.judge.across import performance_profile
from analysis.run.frame import RunWarning
from analysis.runs import load_history
from analysis.stats import mean, t_interval
from analysis.table.build import build_table
from analysis.table.model import Cell, Table, in_percent, possible
from analysis.table.targets import WITHHELD
from analysis.table.timing import SECONDS, far_apart

_UNITS = {"epoch": "epoch", "step": "step", "seconds": "seconds of training", "flops": "FLOPs"}


def over_seeds(
    label: str,
    place: int,
    *,
    source: str,
    run_ids: Sequence[str],
    metric: str,
    along: Literal["epoch", "step"] = "epoch",
    unit: float = 1.0,
) -> Series | None:
    """Return ``metric`` of the histories: mean over runs, band of its 95 % interval (Student's t).

    Args:
        label: of the curve.
        place: of the curve, for its colour.
        source: where the histories are.
        run_ids: the runs, a seed each; one without a history is left out.
        metric: a column of the histories.
        along: what is matched between runs.
        unit: what an epoch or step is on the axis.

    Returns:
        None where no run has such a history.
    """
    columns = []
    for run_id in run_ids:
        with suppress(ValueError):  # no history
            history = load_history(source, run_id)
            if metric in history and along in history:
                columns.append(history.dropna(subset=[metric]).set_index(along)[metric])
    if not columns:
        return None
    whole = pd.concat(columns, axis=1, join="inner").sort_index()
    values = _scale(metric) * whole.to_numpy(dtype=np.float64)
    middle = np.array([mean(one) for one in values])
    ends = possible(metric, np.array([t_interval(one) for one in values]).reshape(-1, 2))
    low, high = np.where(np.isnan(ends), middle[:, None], ends).T
    x = unit * whole.index.to_numpy(dtype=np.float64)
    return Series(label, place, x, middle, low, high, n=len(columns))


def unit_of(metric: str) -> str:
    """Return a metric as an axis names it."""
    return f"{metric} (%)" if in_percent(metric) else metric


def circumstances(runs: pd.DataFrame) -> str:
    """Return how long ``runs`` trained and how many seeds a row has: "8 epochs, 5 to 10 seeds"."""
    parts = []
    if "config.trainer.epochs" in runs and len(runs):
        parts.append(_counted(runs["config.trainer.epochs"].dropna().tolist(), "epoch"))
    named = runs[runs["variant"].notna()]
    if len(named):
        seeds = named.groupby(["optimizer", "variant"], sort=True)["seed"].nunique()
        parts.append(_counted(seeds.tolist(), "seed"))
    return ", ".join(part for part in parts if part)


def _counted(numbers: Sequence[float], noun: str) -> str:
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    count = f"{high:g}" if low == high else f"{low:g} to {high:g}"
    return f"{count} {noun}{'s' * (high != 1)}"


def _scale(metric: str) -> float:
    return 100.0 if in_percent(metric) else 1.0


def curves(runs: pd.DataFrame, source: str, metric: str, x: str) -> Figure:
    """Draw ``metric`` of the histories against ``x``: mean over seeds, band of its 95 % interval.

    "seconds" are epochs times the row's median seconds an epoch, as tables show them; "flops" are
    the run's total, spread evenly over its steps. Rows without seconds are left out with a warning.

    Raises:
        ValueError: no run has such a history, or times that cannot be compared.
    """
    table = build_table(runs, metric=_any_metric(runs))
    if x == "seconds":
        _require_seconds(table)
    series = []
    for index, (label, (cell,)) in enumerate(zip(table.rows, table.cells, strict=True)):
        if not cell.n or (x == "seconds" and math.isnan(cell.seconds_per_epoch)):
            continue
        own = runs[runs["id"].isin(cell.run_ids)]
        one = over_seeds(
            label, index, source=source, run_ids=cell.run_ids, metric=metric,
            along="epoch" if x in ("epoch", "seconds") else "step", unit=_unit(own, cell, x),
        )  # fmt: skip
        series += [one] if one else []
    log = x == "seconds" and far_apart([one.x[-1] for one in series])
    figure = chart(
        series, title=_where(runs), detail=f"{metric} against {_UNITS[x]}; {circumstances(runs)}",
        x_label=f"{_UNITS[x]} (logarithmic)" if log else _UNITS[x], y_label=unit_of(metric),
        log=log, falling=not in_percent(metric),
    )  # fmt: skip
    if figure is None:
        raise ValueError(f"no run here has a history of {metric}")
    return figure


def _unit(runs: pd.DataFrame, cell: Cell, x: str) -> float:
    """Return what an epoch (or step) of a row is on the axis ``x``."""
    if x != "flops":
        return cell.seconds_per_epoch if x == "seconds" else 1.0
    for run in runs.to_dict("records"):
        if pd.isna(run.get("flops/total", math.nan)):
            raise ValueError(f"{run['id']} did not count its FLOPs; use x=epoch")
    return float((runs["flops/total"] / runs["steps"]).mean())


def _where(runs: pd.DataFrame) -> str:
    return " and ".join(sorted(set(runs["model"] + " on " + runs["dataset"])))


def sensitivity(runs: pd.DataFrame, metric: str) -> Figure:
    """Draw ``metric`` against the learning rate, one line an optimizer: mean and 95 % interval.

    Rates at which a seed diverged are marked with a cross on the lower edge.

    Raises:
        ValueError: the runs have one learning rate only.
    """
    if "config.optimizer.lr" not in runs or runs["config.optimizer.lr"].nunique() < 2:
        raise ValueError("a sensitivity needs runs of several optimizer.lr")
    points, lost = [], []
    for (name, rate), group in runs.groupby(["optimizer", "config.optimizer.lr"], sort=True):
        done = group[group["state"] == "done"][metric].dropna().to_numpy()
        if (group["state"] == "diverged").any():
            lost.append((str(name), float(rate)))  # type: ignore[arg-type]
        value = mean(done) if len(done) else math.nan
        points.append((name, rate, value, *(t_interval(done) if len(done) else (value, value))))
    names = sorted(set(runs["optimizer"]))
    places = {name: place for place, name in enumerate(names)}
    frame = pd.DataFrame(points, columns=RATES)
    figure = rate_chart(frame, places, metric, title=_where(runs), detail=circumstances(runs))
    if figure is None:
        raise ValueError(f"no optimizer here has {metric} at two learning rates")
    axes = figure.axes[0]
    axes.set_xlabel("learning rate (x: a seed diverged)")
    for name, rate in lost:
        axes.scatter([rate], [0.02], marker="x", color=look(places[name])["color"],
                     transform=axes.get_xaxis_transform())  # fmt: skip
    return figure


RATES = ["optimizer", "lr", "value", "low", "high"]  # columns of what `rate_chart` draws


def rate_chart(
    points: pd.DataFrame, places: Mapping[str, int], metric: str, *, title: str, detail: str
) -> Figure | None:
    """Draw ``metric`` against the learning rate; None where no optimizer has two rates.

    Args:
        points: columns `RATES`; the ends are NaN where there is no interval.
        places: of each optimizer, for its colour.
        metric: what the values are.
        title: of the figure.
        detail: of the runs behind it.
    """
    series = []
    for name, rows in points.dropna(subset=["value"]).groupby("optimizer", sort=True):
        at, middle, *ends = rows[RATES[1:]].to_numpy(dtype=np.float64).T
        middle = _scale(metric) * middle
        within = possible(metric, _scale(metric) * np.array(ends))
        low, high = np.where(np.isnan(within), middle, within)
        rings = np.full(len(at), 1.8)
        series.append(Series(str(name), places[str(name)], at, middle, low, high, rings=rings))
    return chart(
        series, title=title, detail=f"{metric} against the learning rate; {detail}",
        x_label="learning rate", y_label=unit_of(metric), log=True, falling=not in_percent(metric),
    )  # fmt: skip


def cost(runs: pd.DataFrame, metric: str) -> Figure:
    """Draw ``metric`` against seconds per epoch, one point a row, with the metric's interval.

    Rows without seconds are left out, with a warning.

    Raises:
        ValueError: no run has both, or the times cannot be compared.
    """
    table = build_table(runs, metric=metric, spread="interval")
    _require_seconds(table)
    figure, axes = new_axes()
    scale = _scale(metric)
    for index, (label, (cell,)) in enumerate(zip(table.rows, table.cells, strict=True)):
        if not cell.n or math.isnan(cell.seconds_per_epoch):
            continue
        middle, (low, high) = scale * cell.mean, possible(metric, scale * np.array(cell.interval))
        errors = None if math.isnan(low) else [[middle - low], [high - middle]]
        shape: dict[str, Any] = {"linestyle": "", "capsize": 3, **marker(index)}
        axes.errorbar([cell.seconds_per_epoch], [middle], yerr=errors, label=label, **shape)
    times = [cell.seconds_per_epoch for (cell,) in table.cells if cell.seconds]
    _label(axes, "seconds per epoch", metric, seconds=times)
    axes.set_title(f"{_where(runs)}; {circumstances(runs)}", fontsize=9, loc="left")
    legend(figure, axes)
    return figure


def profile(runs: pd.DataFrame, measure: str) -> Figure:
    """Draw, for each row, the share of problems on which it is within a factor of the best.

    A problem is a dataset and model; a row's cost is its median time to the target, misses
    censored. Rows without seconds to compare on a problem are left out with a warning: they did
    not miss the target. So are problems whose times are withheld.

    Raises:
        ValueError: no run states a target, no row has seconds on every problem, or no problem is
            left.
    """
    if "target/reached" not in runs:
        raise ValueError("no run here states a target; set target= or use conf/targets.yaml")
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
    costs = _costs(shown.values(), every)
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


def _costs(rows: Iterable[Sequence[Cell]], table: Table) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return [rows, problems] of those problems whose times ``table`` does not withhold."""
    kept = [
        j for j, column in enumerate(zip(*table.cells, strict=True))
        if not all(math.isnan(cell.mean) for cell in column)
    ]  # fmt: skip
    reasons = [note for note in table.notes if WITHHELD in note and note.startswith(table.metric)]
    if not kept:
        raise ValueError(f"no problem left to draw: {' '.join(reasons)}")
    for reason in reasons:
        warnings.warn(reason, RunWarning, stacklevel=2)
    return np.array([[row[j].mean if row[j].n else math.inf for j in kept] for row in rows])


def _warn(without: Sequence[str]) -> None:
    if without:
        text = f"left out, since their runs have no seconds to compare: {', '.join(without)}"
        warnings.warn(text, RunWarning, stacklevel=2)


def _any_metric(runs: pd.DataFrame) -> str:
    """Return a summary column that every finished run has, by which to find the rows."""
    return "epochs" if "epochs" in runs else "steps"


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
    axes.set_ylabel(unit_of(metric))
