"""Build a table from runs: a pure function from the runs' frame to numbers without a form.

Only finished runs of one variant are averaged. What is missing, running, failed or diverged is
counted beside the number, never inside it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import pandas as pd

from analysis import stats
from analysis.judge.section import NO_PLAN, Plan, check_baseline
from analysis.stats import NO_INTERVAL, Interval
from analysis.table import select, targets
from analysis.table.compared import compare
from analysis.table.grid import Grid, is_finite, usable
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
from analysis.table.targets import Asked, Histories, is_target, target_cell
from analysis.table.timing import SECONDS, SHARED, comparable, is_packed, is_timing, whose

_HIGHER = ("accuracy", "samples_per_second", "tokens_per_second", "utilisation")
_LOWER = (
    "loss", "seconds", "seconds_per_epoch", "seconds_per_step", "perplexity", "joules",
    "joules_per_epoch",
)  # fmt: skip


def build_table(
    runs: pd.DataFrame, *, metric: str = "test/accuracy", rows: Sequence[str] = ("optimizer",),
    cols: Sequence[str] = ("dataset", "model"), sweep: str | None = None,
    seeds: Sequence[int] | None = None, statistic: Statistic = "mean", spread: Spread = "std",
    baseline: Sequence[str] = (), better: Literal["higher", "lower"] | None = None,
    plan: Plan = NO_PLAN, resolve: float | None = None, mix_timing: bool = False,
    target: Asked | None = None, histories: Histories | None = None,
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
        spread: what is shown beside it: sample standard deviation or 95 % interval.
        baseline: the rows that every other is compared with, paired by seed.
        better: the metric's direction, where its name does not tell.
        plan: how comparisons are judged, and further ones.
        resolve: a difference in the metric's unit; cells say how many seeds would show it.
        mix_timing: use seconds that cannot be compared; else they are left out.
        target: of times to a target, another than the runs' own; "auto": the median final value of
            the first ``baseline``, which is then compared with nothing.
        histories: where ``target`` is looked for.

    Raises:
        ValueError: no runs, an unknown metric, column, sweep or baseline, or a metric that is a
            time of runs that cannot be compared; one line.
    """
    runs = select.of_sweep(runs, sweep)
    if target is None or not is_target(metric):
        select.check_metric(runs, metric)
    rows, cols = ([select.column(runs, name) for name in names] for names in (rows, cols))
    everything = select.records(runs, metric)
    chosen = [run for run in everything if seeds is None or run["seed"] in seeds]
    grid = _grid(chosen, rows, cols, seeds, metric)
    notes = [_what_is_shown(metric, statistic, spread)]
    grid, chosen_as = _to_target(grid, target, baseline, histories)
    baseline = () if target == "auto" else baseline
    grid, left_out = _alone(grid if mix_timing else _timed(grid))
    notes += [_whose_seconds(grid), *_counts(chosen, grid), *left_out]
    if others := len(everything) - len(chosen):
        notes.append(f"{others} runs of other seeds left out.")
    notes += _withheld(grid)
    cells = [[_cell(grid, key, where, statistic) for where in grid.columns] for key in grid.labels]
    cells, of_target = _with_targets(grid, cells, chosen_as)
    sign = _sign(metric, better)
    compared, cells, more = compare(
        grid, cells, plan, baselines=baseline, direction=sign, resolve=resolve
    )
    notes += [*of_target, *more]
    return Table(
        metric, "/".join(name.removeprefix("config.") for name in rows),
        tuple(grid.labels.values()), tuple(map(_name, grid.columns)),
        _marked(cells, sign, statistic), tuple(notes), tuple(grid.timing.values()),
        statistic, spread, tuple(baseline), compared, resolve,
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


def _to_target(
    grid: Grid, target: Asked | None, baselines: Sequence[str], histories: Histories | None
) -> tuple[Grid, dict[Key, str]]:
    """Return the grid with times to ``target``, if one is asked for, and how it was chosen.

    Raises:
        ValueError: the metric is no time to a target, or there is no such baseline.
    """
    if target is None:
        return grid, {}
    if not is_target(grid.metric) or histories is None:
        raise ValueError(
            f"target= goes with metric=target/seconds or target/step, not {grid.metric}"
        )
    if target == "auto" and not baselines:
        raise ValueError("target=auto is the final value of a row: add baseline=<row>")
    for name in baselines:
        check_baseline(name, list(grid.labels.values()))
    baseline = baselines[0] if baselines else ""
    runs, how = dict(grid.runs), {}
    for where in grid.columns:
        found, how[where] = targets.with_target(grid.at(where), target, baseline, histories)
        runs |= {(key, where): found[label] for key, label in grid.labels.items()}
    return replace(grid, runs=runs), how


def _with_targets(
    grid: Grid, cells: list[list[Cell]], chosen_as: Mapping[Key, str]
) -> tuple[list[list[Cell]], list[str]]:
    """Withhold times to a target that say nothing; return the cells, and notes of targets."""
    notes: list[str] = []
    if not is_target(grid.metric):
        return cells, notes
    for j, where in enumerate(grid.columns):
        runs = [run for of_row in grid.at(where).values() for run in of_row]
        said = "; ".join(filter(None, (targets.described(runs), chosen_as.get(where))))
        notes += [f"Target of {_name(where)}: {said}."] if said else []
        reason = targets.withheld(runs)
        if reason is not None:
            notes.append(f"{grid.metric} of {_name(where)}{targets.WITHHELD}{reason}.")
            for line in cells:
                line[j] = replace(line[j], mean=math.nan, iqm=math.nan)
    return cells, notes


def _timed(grid: Grid) -> Grid:
    """Return the grid with the decision which seconds of each column may be compared.

    Raises:
        ValueError: the metric itself is a time or an energy, and not of all runs.
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


def _name(where: Key) -> str:
    return "/".join(map(text, where))


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
    used = sorted((run for run in runs if usable(run, metric)), key=lambda run: run["seed"])
    numbers = [float(run[metric]) for run in used if is_finite(run.get(metric))]
    timed = [run for run in used if grid.timing[where].includes(run)]
    cell = Cell(
        mean=stats.mean(numbers) if numbers else math.nan,
        std=stats.sample_std(numbers) if numbers else math.nan,
        n=len(used),
        expected=grid.seeds[where],
        diverged=sum(run["state"] == "diverged" for run in runs),
        seconds=tuple(float(run[SECONDS]) for run in timed if is_finite(run.get(SECONDS))),
        run_ids=tuple(str(run["id"]) for run in used),
        iqm=stats.iqm(numbers) if numbers else math.nan,
        interval=_interval(numbers, statistic),
        members=tuple(
            sorted(
                (str(run["id"]), run.get(metric) if run["state"] == "done" else None)
                for run in runs
            )
        ),
    )
    return target_cell(cell, runs, metric) if is_target(metric) else cell


def _interval(numbers: Sequence[float], statistic: Statistic) -> Interval:
    """Return the 95 % interval of the statistic; none where too few seeds would not cover."""
    if statistic == "mean":
        return stats.t_interval(numbers) if numbers else NO_INTERVAL
    if len(numbers) < stats.FEWEST:
        return NO_INTERVAL
    return stats.bca_interval(numbers, stats.iqms)


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


def _sign(metric: str, better: Literal["higher", "lower"] | None) -> int:
    """Return the metric's direction, as asked for where its name does not tell.

    Raises:
        ValueError: it is asked for the other way round.
    """
    known, asked = direction(metric), {"higher": 1, "lower": -1}.get(better or "", 0)
    if known and asked and known != asked:
        larger = "larger" if known > 0 else "smaller"
        raise ValueError(f"better={better}: of {metric} the {larger} is better; leave better= out")
    return known or asked


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
    used = sum(usable(run, grid.metric) for run in placed)
    unusable = [run for run in (*placed, *unplaced) if not usable(run, grid.metric)]
    states = Counter(str(run["state"]) for run in unusable)
    states[f"done without a finite {grid.metric}"] = states.pop("done", 0)
    unused = ", ".join(f"{count} {state}" for state, count in sorted(states.items()) if count)
    never = f" Never averaged in: {unused}." if unused else ""
    notes = [f"{used} of {len(chosen)} runs used.{never}"]
    if unplaced:
        ids = ", ".join(str(run["id"]) for run in unplaced)
        notes.append(f"Without a readable config, so in no cell: {ids}.")
    return notes
