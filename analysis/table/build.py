"""Build a table from runs: a pure function from the runs' frame to numbers without a form.

Only finished runs of one variant are averaged. What is missing, running, failed or diverged is
counted beside the number, never inside it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from analysis import stats
from analysis import stats as bootstrap
from analysis.stats import NO_INTERVAL, Interval
from analysis.table import select
from analysis.table.comparisons import Test, against_baseline
from analysis.table.model import (
    Cell,
    Key,
    Run,
    Spread,
    Statistic,
    Table,
    assign_rows,
    in_percent,
    order,
    text,
    values,
)
from analysis.table.select import is_target, target_cell, tells
from analysis.table.timing import (
    SECONDS,
    SHARED,
    comparable,
    is_packed,
    is_timing,
    sharing,
    told_sharing,
)

__all__ = ["Cell", "Table", "build_table"]

_HIGHER = ("accuracy", "samples_per_second", "tokens_per_second", "utilisation")
_LOWER = ("loss", "seconds", "seconds_per_epoch", "seconds_per_step", "perplexity")


@dataclass(frozen=True)
class Grid:
    """``runs`` by (row, column); the rows' ``labels``, in order; each column's expected seeds."""

    runs: Mapping[tuple[Key, Key], list[Run]]
    labels: Mapping[Key, str]
    seeds: Mapping[Key, int]

    @property
    def columns(self) -> list[Key]:
        """The columns in order."""
        return list(self.seeds)


def build_table(
    runs: pd.DataFrame,
    *,
    metric: str = "test/accuracy",
    rows: Sequence[str] = ("optimizer",),
    cols: Sequence[str] = ("dataset", "model"),
    sweep: str | None = None,
    seeds: Sequence[int] | None = None,
    statistic: Statistic = "mean",
    spread: Spread = "std",
    baseline: str | None = None,
    better: Literal["higher", "lower"] | None = None,
    level: float = 0.05,
    test: Test = "auto",
    looks: int = 1,
    resolve: float | None = None,
    mix_timing: bool = False,
) -> Table:
    """Return the table of ``metric`` over ``runs`` (the frame of `analysis.runs.load_runs`).

    Args:
        runs: one row a run.
        metric: a summary column.
        rows: columns that name a row; variants that still differ get a row each.
        cols: columns that name a column.
        sweep: only the runs of this sweep.
        seeds: the expected seeds, and the only ones used; else those seen in a column.
        statistic: what a cell shows of its runs.
        spread: what is shown beside it: sample standard deviation or 95 % interval (Student's for
            the mean, BCa bootstrap for the interquartile mean, from 10 seeds on).
        baseline: the row that every other is compared with, paired by seed.
        better: the metric's direction, where its name does not tell.
        level: of any false verdict in the table (see `analysis.table.comparisons.compare`).
        test: of the verdicts.
        looks: how often results were looked at while seeds were added, this time counted.
        resolve: a difference in the metric's unit; cells say how many seeds would show it.
        mix_timing: show times even of runs whose times cannot be compared. Else runs that shared
            their device have none beside runs that had it alone: where the metric is a time they
            are left out.

    Raises:
        ValueError: no runs, an unknown metric, column, sweep or baseline, or a metric that is a
            time of runs that cannot be compared; one line.
    """
    runs = select.of_sweep(runs, sweep)
    select.check_metric(runs, metric)
    rows = [select.column(runs, name) for name in rows]
    cols = [select.column(runs, name) for name in cols]
    everything = select.records(runs, metric)
    chosen = [run for run in everything if seeds is None or run["seed"] in seeds]
    others = len(everything) - len(chosen)
    grid = _grid(chosen, rows, cols, seeds)
    apart: set[str] = set()
    said: list[str] = []
    if is_timing(metric) and not mix_timing:
        grid, apart, said = _alone(grid, metric)
    notes = [_what_is_shown(metric, statistic, spread), *_notes(chosen, apart, metric), *said]
    if others:
        notes.append(f"{others} runs of other seeds left out.")
    withheld, told, why = _untimed(grid, metric, mix_timing)
    notes = [notes[0], told, *notes[1:], *why]
    cells = [
        [
            _cell(grid.runs[key, where], metric, grid.seeds[where], withheld[where], statistic)
            for where in grid.columns
        ]
        for key in grid.labels
    ]
    direction = {"higher": 1, "lower": -1}.get(better or "", _direction(metric))
    if baseline is not None or resolve is not None:
        cells, compared = _compared(
            grid, cells, metric, baseline=baseline, direction=direction, level=level, test=test,
            looks=looks, resolve=resolve,
        )  # fmt: skip
        notes += compared
    return Table(
        metric=metric,
        corner="/".join(name.removeprefix("config.") for name in rows),
        rows=tuple(grid.labels.values()),
        columns=tuple(map(_name, grid.columns)),
        cells=_marked(cells, direction, statistic),
        notes=tuple(notes),
        statistic=statistic,
        spread=spread,
        baseline=baseline,
        resolve=resolve,
    )


def _grid(
    chosen: Sequence[Run], rows: Sequence[str], cols: Sequence[str], seeds: Sequence[int] | None
) -> Grid:
    """Return the runs by row and column.

    Raises:
        ValueError: none of them has a config, so that there is no row to show.
    """
    placed = [run for run in chosen if run["variant"] is not None]
    if not placed:
        raise ValueError("no run left to show: none has a readable config and one of the seeds")
    keys, labels = assign_rows(placed, rows, cols)
    runs: dict[tuple[Key, Key], list[Run]] = defaultdict(list)
    expected: dict[Key, set[int]] = defaultdict(set)
    for key, run in zip(keys, placed, strict=True):
        where = values(run, cols)
        runs[key, where].append(run)
        expected[where].update(seeds if seeds is not None else [run["seed"]])
    columns = sorted(expected, key=lambda where: [order(value) for value in where])
    return Grid(runs, labels, {where: len(expected[where]) for where in columns})


def _alone(grid: Grid, metric: str) -> tuple[Grid, set[str], list[str]]:
    """Leave out runs that shared their device where others of their column had it alone.

    Diverged runs too: a row is not judged by how the runs that shared a device ended.

    Returns:
        The grid without them, their ids, and notes of them.
    """
    kept: dict[tuple[Key, Key], list[Run]] = {}
    apart, notes = set(), []
    for where in grid.columns:
        every = {label: grid.runs.get((key, where), []) for key, label in grid.labels.items()}
        mixed = sharing({key: _used(grid, key, where, metric) for key in grid.labels})
        for key, label in grid.labels.items():
            kept[key, where] = [run for run in every[label] if not mixed or not is_packed(run)]
        if not mixed:
            continue
        here = {str(run["id"]) for runs in every.values() for run in runs if is_packed(run)}
        notes.append(
            f"{metric} of {_name(where)} leaves out {told_sharing(every, here)}: {SHARED}."
        )
        apart |= here
    return replace(grid, runs=kept), apart, notes


def _compared(
    grid: Grid,
    cells: list[list[Cell]],
    metric: str,
    *,
    baseline: str | None,
    resolve: float | None,
    **how: Any,
) -> tuple[list[list[Cell]], list[str]]:
    """Return the cells with what `against_baseline` says of the grid's numbers, and its notes.

    Raises:
        ValueError: the metric has no numbers to pair, or see there.
    """
    if is_target(metric):
        raise ValueError(
            f"{metric}: no verdicts, because a run that missed has no number to pair; "
            "leave baseline= and resolve= out"
        )
    numbers = [
        [by_seed(grid.runs[key, where], metric) for where in grid.columns] for key in grid.labels
    ]
    labels = list(grid.labels.values())
    found, notes = against_baseline(
        labels, numbers, baseline=baseline, resolve=resolve, metric=metric, **how
    )
    compared = [
        [
            replace(cell, comparison=comparison, needed=needed)
            for cell, (comparison, needed) in zip(line, results, strict=True)
        ]
        for line, results in zip(cells, found, strict=True)
    ]
    return compared, notes


def _name(where: Key) -> str:
    return "/".join(map(text, where))


def _untimed(
    grid: Grid, metric: str, mix_timing: bool
) -> tuple[dict[Key, Collection[str] | None], str, list[str]]:
    """Return the ids of each column's runs without times (None: all), what the others are, and why.

    Raises:
        ValueError: the metric itself is a time, and not of all runs.
    """
    withheld: dict[Key, Collection[str] | None] = dict.fromkeys(grid.columns, ())
    notes = []
    for where in () if mix_timing else grid.columns:
        name = _name(where)
        used = {key: _used(grid, key, where, metric) for key in grid.labels}
        apart, why = comparable(used)
        if is_timing(metric) and why:
            raise ValueError(
                f"{metric} of {name}: {why}; choose runs with sweep= or cols=, "
                "or compare them all the same with mix_timing=true"
            )
        withheld[where] = None if why else apart
        notes += [f"s/epoch of {name} withheld: {why}."] if why else []
        if apart:
            told = told_sharing({grid.labels[key]: runs for key, runs in used.items()}, apart)
            notes.append(f"s/epoch of {name} withheld of {told}: {SHARED}.")
    same = "those of the same runs that have any" if any(withheld.values()) else "the same runs"
    return withheld, f"s/epoch: median seconds per epoch of {same}.", notes


def _used(grid: Grid, key: Key, where: Key, metric: str) -> list[Run]:
    return [run for run in grid.runs.get((key, where), ()) if _usable(run, metric)]


def by_seed(runs: Sequence[Run], metric: str) -> dict[int, float | None]:
    """Return the runs' numbers by seed, None for a run that diverged; others are left out."""
    found: dict[int, float | None] = {}
    for run in runs:
        if _usable(run, metric):
            found[run["seed"]] = float(run[metric])
        elif run["state"] == "diverged":
            found[run["seed"]] = None
    return found


def _cell(
    runs: Sequence[Run],
    metric: str,
    expected: int,
    untimed: Collection[str] | None,
    statistic: Statistic,
) -> Cell:
    """Return the cell of one row's runs in one column; no times of those ``untimed``, None: of any.

    Raises:
        ValueError: two runs of one variant have the same seed: neither can be left out unseen.
    """
    seeds = Counter(run["seed"] for run in runs)
    if seeds and (repeated := seeds.most_common(1)[0])[1] > 1:
        ids = " and ".join(str(run["id"]) for run in runs if run["seed"] == repeated[0])
        raise ValueError(f"{ids} have the same config and seed; remove one of them")
    used = sorted((run for run in runs if _usable(run, metric)), key=lambda run: run["seed"])
    numbers = [float(run[metric]) for run in used if _is_finite(run.get(metric))]
    timed = [run for run in used if untimed is not None and str(run["id"]) not in untimed]
    cell = Cell(
        mean=stats.mean(numbers) if numbers else math.nan,
        std=stats.sample_std(numbers) if numbers else math.nan,
        n=len(used),
        expected=expected,
        diverged=sum(run["state"] == "diverged" for run in runs),
        seconds=tuple(float(run[SECONDS]) for run in timed if _is_finite(run.get(SECONDS))),
        run_ids=tuple(str(run["id"]) for run in used),
        iqm=stats.iqm(numbers) if numbers else math.nan,
        interval=_interval(numbers, statistic),
    )
    return target_cell(cell, runs, metric) if is_target(metric) else cell


def _interval(numbers: Sequence[float], statistic: Statistic) -> Interval:
    """Return the 95 % interval of the statistic; none where too few seeds would not cover."""
    if statistic == "mean":
        return stats.t_interval(numbers) if numbers else NO_INTERVAL
    if len(numbers) < bootstrap.FEWEST:
        return NO_INTERVAL
    return bootstrap.bca_interval(numbers, bootstrap.iqms)


def _usable(run: Run, metric: str) -> bool:
    """Return whether the run's number may be used: it is done, and it is finite or a miss."""
    if run["state"] != "done":
        return False
    return _is_finite(run.get(metric)) or (is_target(metric) and tells(run))


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _marked(
    grid: list[list[Cell]], sign: int, statistic: Statistic
) -> tuple[tuple[Cell, ...], ...]:
    """Mark the best of each column; a row that lacks seeds wins only against its like."""
    for column in range(len(grid[0])):
        cells = [row[column] for row in grid if row[column].n]
        full = [cell for cell in cells if cell.n == cell.expected] or cells
        if sign == 0 or len(cells) < 2:
            continue
        best = max(sign * getattr(cell, statistic) for cell in full)
        if math.isinf(best):
            continue
        complete = len(full) < len(cells)
        for row in grid:
            cell = row[column]
            if not cell.n or (complete and cell.n != cell.expected):
                continue
            if sign * getattr(cell, statistic) == best:
                row[column] = replace(cell, best=True)
    return tuple(tuple(row) for row in grid)


def _direction(metric: str) -> int:
    """Return 1 where larger is better, -1 where smaller is, 0 where neither is."""
    if is_target(metric):
        return -1
    if metric.endswith(_HIGHER):
        return 1
    return -1 if metric.endswith(_LOWER) else 0


def _what_is_shown(metric: str, statistic: Statistic, spread: Spread) -> str:
    if is_target(metric):
        return (
            f"{metric}: Kaplan-Meier median over seeds; a miss is censored at what the run spent"
            " (reached of finished/expected seeds)."
        )
    shown = {
        ("mean", "std"): "mean ± sample standard deviation",
        ("mean", "interval"): "mean [95 % interval, Student's t]",
        ("iqm", "std"): "interquartile mean ± sample standard deviation",
        ("iqm", "interval"): (
            f"interquartile mean [95 % interval, BCa bootstrap, from {bootstrap.FEWEST} seeds on]"
        ),
    }[statistic, spread]
    unit = " in percent" if in_percent(metric) else ""
    return f"{metric}{unit}: {shown} over seeds (finished/expected seeds)."


def _notes(chosen: Sequence[Run], apart: Collection[str], metric: str) -> list[str]:
    """Return how many of the runs are used; how those that are kept ``apart`` ended is not told."""
    kept = [run for run in chosen if str(run["id"]) not in apart]
    used = sum(_usable(run, metric) for run in kept if run["variant"] is not None)
    states = Counter(str(run["state"]) for run in kept if not _usable(run, metric))
    states[f"done without a finite {metric}"] = states.pop("done", 0)
    unused = ", ".join(f"{count} {state}" for state, count in sorted(states.items()) if count)
    notes = [
        f"{used} of {len(chosen)} runs used."
        + (f" Never averaged in: {unused}." if unused else ""),
    ]
    unplaced = [str(run["id"]) for run in chosen if run["variant"] is None]
    if unplaced:
        notes.append(f"Without a readable config, so in no cell: {', '.join(unplaced)}.")
    return notes
