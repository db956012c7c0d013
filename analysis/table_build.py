"""Build a table from runs: a pure function from the runs' frame to numbers without a form.

Only finished runs of one variant are averaged. What is missing, running, failed or diverged is
counted beside the number, never inside it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis import stats
from analysis.run_frame import FIXED, GROUPS, nearest
from analysis.table_rows import Key, Run, assign_rows, order, text, values

_SECONDS = "seconds_per_epoch"
_HIGHER = ("accuracy", "samples_per_second")
_LOWER = ("loss", "seconds", "seconds_per_epoch")


def in_percent(metric: str) -> bool:
    """Return whether a metric is an accuracy: a fraction, shown in percent."""
    return metric.endswith("accuracy")


@dataclass(frozen=True)
class Cell:
    """One cell: its statistics are over ``run_ids``, the finished runs; NaN where there are none.

    ``std`` is the sample standard deviation, NaN for one run; ``expected`` counts the column's
    seeds; ``diverged`` counts this row's diverged runs.
    """

    mean: float
    std: float
    n: int
    expected: int
    diverged: int
    seconds_per_epoch: float
    run_ids: tuple[str, ...]
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table of numbers, still without a form; ``cells[i][j]`` is row i, column j."""

    metric: str
    corner: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]


def build_table(
    runs: pd.DataFrame,
    *,
    metric: str = "test/accuracy",
    rows: Sequence[str] = ("optimizer",),
    cols: Sequence[str] = ("dataset", "model"),
    sweep: str | None = None,
    seeds: Sequence[int] | None = None,
) -> Table:
    """Return the table of ``metric`` over ``runs`` (the frame of `analysis.runs.load_runs`).

    Args:
        runs: one row a run.
        metric: a summary column.
        rows: columns that name a row; variants that still differ get a row each.
        cols: columns that name a column.
        sweep: only the runs of this sweep.
        seeds: the expected seeds, and the only ones used; else those seen in a column.

    Raises:
        ValueError: no runs, or an unknown metric, column or sweep; one line.
    """
    runs = _of_sweep(runs, sweep)
    _check_metric(runs, metric)
    rows, cols = [_column(runs, name) for name in rows], [_column(runs, name) for name in cols]
    everything = _records(runs)
    chosen = [run for run in everything if seeds is None or run["seed"] in seeds]
    placed = [run for run in chosen if run["variant"] is not None]
    if not placed:
        raise ValueError("no run left to show: none has a readable config and one of the seeds")
    keys, labels = assign_rows(placed, rows, cols)
    cells: dict[tuple[Key, Key], list[Run]] = defaultdict(list)
    expected: dict[Key, set[int]] = defaultdict(set)
    for key, run in zip(keys, placed, strict=True):
        where = values(run, cols)
        cells[key, where].append(run)
        expected[where].update(seeds if seeds is not None else [run["seed"]])
    columns = sorted(expected, key=lambda where: [order(value) for value in where])
    grid = [
        [_cell(cells.get((key, where), []), metric, len(expected[where])) for where in columns]
        for key in labels
    ]
    return Table(
        metric=metric,
        corner="/".join(name.removeprefix("config.") for name in rows),
        rows=tuple(labels.values()),
        columns=tuple("/".join(map(text, where)) for where in columns),
        cells=_marked(grid, metric),
        notes=_notes(chosen, placed, metric, len(everything) - len(chosen)),
    )


def _cell(runs: Sequence[Run], metric: str, expected: int) -> Cell:
    """Return the cell of one row's runs in one column.

    Raises:
        ValueError: two runs of one variant have the same seed: neither can be left out unseen.
    """
    seeds = Counter(run["seed"] for run in runs)
    if seeds and (repeated := seeds.most_common(1)[0])[1] > 1:
        ids = " and ".join(str(run["id"]) for run in runs if run["seed"] == repeated[0])
        raise ValueError(f"{ids} have the same config and seed; remove one of them")
    used = sorted((run for run in runs if _usable(run, metric)), key=lambda run: run["seed"])
    numbers = [float(run[metric]) for run in used]
    seconds = [float(run[_SECONDS]) for run in used if _is_finite(run.get(_SECONDS))]
    return Cell(
        mean=stats.mean(numbers) if numbers else math.nan,
        std=stats.sample_std(numbers) if numbers else math.nan,
        n=len(used),
        expected=expected,
        diverged=sum(run["state"] == "diverged" for run in runs),
        seconds_per_epoch=stats.mean(seconds) if seconds else math.nan,
        run_ids=tuple(str(run["id"]) for run in used),
    )


def _usable(run: Run, metric: str) -> bool:
    """Return whether the run's number may be averaged: it is done, and the number is finite."""
    return run["state"] == "done" and _is_finite(run.get(metric))


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _marked(grid: list[list[Cell]], metric: str) -> tuple[tuple[Cell, ...], ...]:
    """Mark the best mean of each column; a row that lacks seeds wins only against its like."""
    sign = _direction(metric)
    for column in range(len(grid[0])):
        cells = [row[column] for row in grid if row[column].n]
        full = [cell for cell in cells if cell.n == cell.expected] or cells
        if sign == 0 or len(cells) < 2:
            continue
        best = max(full, key=lambda cell: sign * cell.mean)
        for row in grid:
            if row[column] in full and row[column].mean == best.mean:
                row[column] = replace(row[column], best=True)
    return tuple(tuple(row) for row in grid)


def _direction(metric: str) -> int:
    """Return 1 where larger is better, -1 where smaller is, 0 where neither is."""
    if metric.endswith(_HIGHER):
        return 1
    return -1 if metric.endswith(_LOWER) else 0


def _notes(
    chosen: Sequence[Run], placed: Sequence[Run], metric: str, other_seeds: int
) -> tuple[str, ...]:
    unit = " in percent" if in_percent(metric) else ""
    used = sum(_usable(run, metric) for run in placed)
    states = Counter(str(run["state"]) for run in chosen if not _usable(run, metric))
    states[f"done without a finite {metric}"] = states.pop("done", 0)
    unused = ", ".join(f"{count} {state}" for state, count in sorted(states.items()) if count)
    notes = [
        f"{metric}{unit}: mean ± sample standard deviation over seeds (finished/expected seeds).",
        "s/epoch: mean seconds per epoch of the same runs.",
        f"{used} of {len(chosen)} runs used."
        + (f" Never averaged in: {unused}." if unused else ""),
    ]
    unplaced = [str(run["id"]) for run in chosen if run["variant"] is None]
    if unplaced:
        notes.append(f"Without a readable config, so in no cell: {', '.join(unplaced)}.")
    if other_seeds:
        notes.append(f"{other_seeds} runs of other seeds left out.")
    return tuple(notes)


# -- what was asked for -------------------------------------------------------------------------


def _of_sweep(runs: pd.DataFrame, sweep: str | None) -> pd.DataFrame:
    if runs.empty:
        raise ValueError("no runs there; make some with `python -m bench.train ...`")
    if sweep is None:
        return runs
    kept = runs[runs["sweep"] == sweep]
    if kept.empty:
        known = sorted({str(name) for name in runs["sweep"] if isinstance(name, str)})
        hint = f"; sweeps here: {', '.join(known)}" if known else "; no run here has a sweep"
        raise ValueError(f"no runs of sweep {sweep!r}{hint}")
    return kept


def _check_metric(runs: pd.DataFrame, metric: str) -> None:
    if not (runs["state"] == "done").any():
        return  # nothing to compare the name with; the table will say that nothing is finished
    known = [
        str(name)
        for name in runs.columns
        if name not in FIXED and not name.startswith("config.") and runs[name].dtype == "float64"
    ]
    if metric not in known:
        hint = nearest(metric, known) or f"; known: {', '.join(known)}"
        raise ValueError(f"unknown metric {metric!r}{hint}")


def _column(runs: pd.DataFrame, name: str) -> str:
    """Return the frame's column for ``optimizer``, ``optimizer.lr`` or ``config.optimizer.lr``."""
    config = [str(column) for column in runs.columns if column.startswith("config.")]
    known = (*GROUPS, "sweep", "variant", *config)
    for candidate in (name, f"config.{name}"):
        if candidate in known:
            return candidate
    short = [column.removeprefix("config.") for column in known]
    raise ValueError(f"unknown column {name!r}{nearest(name, short)}; try {', '.join(GROUPS)}")


def _records(runs: pd.DataFrame) -> list[Run]:
    """Return the frame's rows as mappings, None for every missing value."""
    names = [str(name) for name in runs.columns]
    columns = [
        [None if missing else value for value, missing in zip(runs[n], runs[n].isna(), strict=True)]
        for n in names
    ]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
