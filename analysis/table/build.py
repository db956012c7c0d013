"""Build a table from runs: a pure function from the runs' frame to numbers without a form.

Only finished runs of one variant are averaged. What is missing, running, failed or diverged is
counted beside the number, never inside it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from analysis import stats
from analysis.stats import NO_INTERVAL, Interval
from analysis.table import select
from analysis.table.comparisons import Test, against_baseline
from analysis.table.model import (
    Cell,
    Comparable,
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
from analysis.table.select import has_target, is_target, target_cell
from analysis.table.timing import SECONDS, SHARED, comparable, is_packed, is_timing, whose

_HIGHER = ("accuracy", "samples_per_second", "tokens_per_second", "utilisation")
_LOWER = ("loss", "seconds", "seconds_per_epoch", "seconds_per_step", "perplexity")


@dataclass(frozen=True)
class Grid:
    """``runs`` by (row, column); the rows' ``labels``, in order; each column's expected seeds.

    ``timing``: by column, which of its runs' seconds may be compared.
    """

    metric: str
    runs: Mapping[tuple[Key, Key], list[Run]]
    labels: Mapping[Key, str]
    seeds: Mapping[Key, int]
    timing: Mapping[Key, Comparable]

    @property
    def columns(self) -> list[Key]:
        """The columns in order."""
        return list(self.seeds)

    def at(self, where: Key) -> dict[str, list[Run]]:
        """Return the runs of a column, by the label of their row."""
        return {label: self.runs.get((key, where), []) for key, label in self.labels.items()}

    def used(self, where: Key) -> dict[str, list[Run]]:
        """Return the runs of a column that have a number, by the label of their row."""
        return {
            label: [run for run in runs if _usable(run, self.metric)]
            for label, runs in self.at(where).items()
        }


def build_table(
    runs: pd.DataFrame, *, metric: str = "test/accuracy", rows: Sequence[str] = ("optimizer",),
    cols: Sequence[str] = ("dataset", "model"), sweep: str | None = None,
    seeds: Sequence[int] | None = None, statistic: Statistic = "mean", spread: Spread = "std",
    baseline: str | None = None, better: Literal["higher", "lower"] | None = None,
    level: float = 0.05, test: Test = "auto", looks: int = 1, resolve: float | None = None,
    mix_timing: bool = False,
) -> Table:  # fmt: skip
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
        level: of any false verdict; this, ``test`` and ``looks`` as `comparisons.compare` has them.
        test: of the verdicts.
        looks: how many interim analyses there were, this one counted.
        resolve: a difference in the metric's unit; cells say how many seeds would show it.
        mix_timing: use seconds that cannot be compared. Else runs that shared their device have
            none beside runs that had it alone: where the metric is a time they are left out.

    Raises:
        ValueError: no runs, an unknown metric, column, sweep or baseline, or a metric that is a
            time of runs that cannot be compared; one line.
    """
    runs = select.of_sweep(runs, sweep)
    select.check_metric(runs, metric)
    rows, cols = ([select.column(runs, name) for name in names] for names in (rows, cols))
    everything = select.records(runs, metric)
    chosen = [run for run in everything if seeds is None or run["seed"] in seeds]
    grid = _grid(chosen, rows, cols, seeds, metric)
    notes = [_what_is_shown(metric, statistic, spread)]
    grid, left_out = _alone(grid if mix_timing else _timed(grid))
    notes += [_whose_seconds(grid), *_counts(chosen, grid), *left_out]
    if len(chosen) < len(everything):
        notes.append(f"{len(everything) - len(chosen)} runs of other seeds left out.")
    notes += _withheld(grid)
    cells = [[_cell(grid, key, where, statistic) for where in grid.columns] for key in grid.labels]
    sign = {"higher": 1, "lower": -1}.get(better or "", direction(metric))
    if baseline is not None or resolve is not None:
        cells, compared = _compared(
            grid, cells, baseline=baseline, direction=sign, level=level, test=test, looks=looks,
            resolve=resolve,
        )  # fmt: skip
        notes += compared
    return Table(
        metric, "/".join(name.removeprefix("config.") for name in rows),
        tuple(grid.labels.values()), tuple(map(_name, grid.columns)),
        _marked(cells, sign, statistic), tuple(notes), tuple(grid.timing.values()),
        statistic, spread, baseline, resolve,
    )  # fmt: skip


def _grid(
    chosen: Sequence[Run],
    rows: Sequence[str],
    cols: Sequence[str],
    seeds: Sequence[int] | None,
    metric: str,
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
    counts = {where: len(expected[where]) for where in columns}
    return Grid(metric, runs, labels, counts, dict.fromkeys(columns, Comparable()))


def _timed(grid: Grid) -> Grid:
    """Return the grid with the decision which seconds of each column may be compared.

    Raises:
        ValueError: the metric itself is a time, and not of all runs.
    """
    timing = {
        where: comparable([run for runs in grid.used(where).values() for run in runs])
        for where in grid.columns
    }
    for where, found in timing.items():
        if is_timing(grid.metric) and found.mixed:
            raise ValueError(
                f"{grid.metric} of {_name(where)}: {found.mixed}; choose runs with sweep= or cols=,"
                " or compare them all the same with mix_timing=true"
            )
    return replace(grid, timing=timing)


def _alone(grid: Grid) -> tuple[Grid, list[str]]:
    """Leave out of times the runs that shared their device where others had it alone.

    Diverged runs too: a row is not judged by how the runs that shared a device ended.

    Returns:
        The grid without them, and notes of them.
    """
    kept, timing, notes = dict(grid.runs), dict(grid.timing), []
    for where in grid.columns if is_timing(grid.metric) else ():
        if not grid.timing[where].apart:
            continue
        here = grid.at(where)
        packed = {str(run["id"]) for runs in here.values() for run in runs if is_packed(run)}
        notes.append(f"{grid.metric} of {_name(where)} leaves out {whose(here, packed)}: {SHARED}.")
        for key, label in grid.labels.items():
            kept[key, where] = [run for run in here[label] if not is_packed(run)]
        timing[where] = Comparable()
    return replace(grid, runs=kept, timing=timing), notes


def _withheld(grid: Grid) -> list[str]:
    """Return notes on the seconds that no cell shows."""
    notes = []
    for where, timing in grid.timing.items():
        name = f"s/epoch of {_name(where)} withheld"
        notes += [f"{name}: {timing.mixed}."] if timing.mixed else []
        if timing.apart:
            notes.append(f"{name} of {whose(grid.used(where), timing.apart)}: {SHARED}.")
    return notes


def _whose_seconds(grid: Grid) -> str:
    partly = any(timing.apart and not timing.mixed for timing in grid.timing.values())
    same = "those of the same runs that have any" if partly else "the same runs"
    return f"s/epoch: median seconds per epoch of {same}."


def _compared(
    grid: Grid, cells: list[list[Cell]], **how: Any
) -> tuple[list[list[Cell]], list[str]]:
    """Return the cells with what `against_baseline` says of the grid's numbers, and its notes.

    Raises:
        ValueError: the metric has no numbers to pair, or see there.
    """
    if is_target(grid.metric):
        raise ValueError(
            f"{grid.metric}: no verdicts, because a run that missed has no number to pair; "
            "leave baseline= and resolve= out"
        )
    numbers = [
        [by_seed(grid.runs.get((key, where), []), grid.metric) for where in grid.columns]
        for key in grid.labels
    ]
    results, notes = against_baseline(
        list(grid.labels.values()), numbers, metric=grid.metric, **how
    )
    compared = [
        [
            replace(cell, comparison=comparison, needed=needed)
            for cell, (comparison, needed) in zip(line, found, strict=True)
        ]
        for line, found in zip(cells, results, strict=True)
    ]
    return compared, notes


def _name(where: Key) -> str:
    return "/".join(map(text, where))


def by_seed(runs: Sequence[Run], metric: str) -> dict[int, float | None]:
    """Return the runs' numbers by seed, None for a run that diverged; others are left out."""
    found: dict[int, float | None] = {}
    for run in runs:
        if _usable(run, metric):
            found[run["seed"]] = float(run[metric])
        elif run["state"] == "diverged":
            found[run["seed"]] = None
    return found


def _cell(grid: Grid, key: Key, where: Key, statistic: Statistic) -> Cell:
    """Return the cell of one row's runs in one column.

    Raises:
        ValueError: two runs of one variant have the same seed: neither can be left out unseen.
    """
    runs, metric = grid.runs.get((key, where), []), grid.metric
    seeds = Counter(run["seed"] for run in runs)
    if seeds and (repeated := seeds.most_common(1)[0])[1] > 1:
        ids = " and ".join(str(run["id"]) for run in runs if run["seed"] == repeated[0])
        raise ValueError(f"{ids} have the same config and seed; remove one of them")
    used = sorted((run for run in runs if _usable(run, metric)), key=lambda run: run["seed"])
    numbers = [float(run[metric]) for run in used if _is_finite(run.get(metric))]
    timed = [run for run in used if grid.timing[where].includes(run)]
    cell = Cell(
        mean=stats.mean(numbers) if numbers else math.nan,
        std=stats.sample_std(numbers) if numbers else math.nan,
        n=len(used),
        expected=grid.seeds[where],
        diverged=sum(run["state"] == "diverged" for run in runs),
        seconds=tuple(float(run[SECONDS]) for run in timed if _is_finite(run.get(SECONDS))),
        run_ids=tuple(str(run["id"]) for run in used),
        iqm=stats.iqm(numbers) if numbers else math.nan,
        interval=_interval(numbers, statistic),
        members=tuple(sorted(str(run["id"]) for run in runs)),
    )
    return target_cell(cell, runs, metric) if is_target(metric) else cell


def _interval(numbers: Sequence[float], statistic: Statistic) -> Interval:
    """Return the 95 % interval of the statistic; none where too few seeds would not cover."""
    if statistic == "mean":
        return stats.t_interval(numbers) if numbers else NO_INTERVAL
    if len(numbers) < stats.FEWEST:
        return NO_INTERVAL
    return stats.bca_interval(numbers, stats.iqms)


def _usable(run: Run, metric: str) -> bool:
    """Return whether the run's number may be used: it is done, and it is finite or a miss."""
    if run["state"] != "done":
        return False
    return _is_finite(run.get(metric)) or (is_target(metric) and has_target(run))


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


def direction(metric: str) -> int:
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
            f"interquartile mean [95 % interval, BCa bootstrap, from {stats.FEWEST} seeds on]"
        ),
    }[statistic, spread]
    unit = " in percent" if in_percent(metric) else ""
    return f"{metric}{unit}: {shown} over seeds (finished/expected seeds)."


def _counts(chosen: Sequence[Run], grid: Grid) -> list[str]:
    """Return how many of the runs are used; those left out of the grid do not count."""
    placed = [run for runs in grid.runs.values() for run in runs]
    unplaced = [run for run in chosen if run["variant"] is None]
    used = sum(_usable(run, grid.metric) for run in placed)
    unusable = [run for run in (*placed, *unplaced) if not _usable(run, grid.metric)]
    states = Counter(str(run["state"]) for run in unusable)
    states[f"done without a finite {grid.metric}"] = states.pop("done", 0)
    unused = ", ".join(f"{count} {state}" for state, count in sorted(states.items()) if count)
    never = f" Never averaged in: {unused}." if unused else ""
    notes = [f"{used} of {len(chosen)} runs used.{never}"]
    if unplaced:
        ids = ", ".join(str(run["id"]) for run in unplaced)
        notes.append(f"Without a readable config, so in no cell: {ids}.")
    return notes
