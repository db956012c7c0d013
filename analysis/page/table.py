"""The main table of a study: everything that is said of each optimizer, and where it is from."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import pandas as pd

from analysis.judge.registered import plan_of
from analysis.judge.section import Plan, optimizer_of
from analysis.judge.verdicts import Comparison
from analysis.page.budget import NOTHING, RED, Budget, Place, usual
from analysis.table.build import build_table
from analysis.table.model import Cell, Run, Table
from analysis.table.render import badge_text, common_badge, comparison_text, difference, value
from analysis.table.select import records
from analysis.table.targets import REACHED, Histories, is_about_target
from analysis.table.timing import (
    GRAPH,
    SECONDS,
    SHARED,
    UNEVEN,
    is_packed,
    whose,
)
from bench.table_writer import Table as WrittenTable
from bench.table_writer import write

BASELINES = ("adamw", "muon")
_TO_TARGET = {
    "target/step": "steps to target", "target/seconds": "s to target",
    "target/joules": "J to target",
}  # fmt: skip
_UNREGISTERED = partial(plan_of, None)  # of runs that are no study's
_LOSS = "{metric} is a mean cross-entropy in nats, of a language model a token's: lower is better."
_SHARED = f"Seconds are withheld of {{told}}: {SHARED}."
_ALL_SHARED = (
    f"{RED} All of these runs shared their device: their seconds say how long the sweep took, and"
    " little of what an optimizer costs."
)
_GRAPH = (
    "Steps of {launched} were launched from Python one operation after another, all other rows'"
    " were replayed from a CUDA graph."
)
_SECONDS = "s/epoch: seconds of training an epoch, median over {runs} [least, most]."
_REACHED = (
    "To target: Kaplan-Meier median over the runs, of seconds and joules over those that have"
    " them; a miss is censored at what the run spent (reached of those runs)."
)


@dataclass(frozen=True)
class Row:
    """One optimizer; ``against`` holds its comparison with each baseline but itself."""

    label: str
    optimizer: str
    cell: Cell
    against: dict[str, Comparison]
    targets: tuple[Cell | None, ...]  # one for each of `Results.targets`
    budget: Budget
    run: Run | None  # one of its runs, which its settings are read from
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """The rows of one dataset and model. ``notes`` say how numbers were made and what is left out.

    ``table`` is the study's; ``timed`` says whether seconds of this dataset and model can be
    compared, but for rows whose cell has none; ``targets`` are of this dataset and model: the
    steps, seconds and joules to the target, without those that no row has.
    """

    dataset: str
    model: str
    rows: tuple[Row, ...]
    table: Table
    timed: bool
    targets: tuple[Table, ...]
    baselines: tuple[str, ...]
    notes: tuple[str, ...]


def metric_of(runs: pd.DataFrame, split: str = "test") -> str:
    """Return what a study is judged by: the loss of language models, else the accuracy."""
    language = "tokens_per_second" in runs and runs["tokens_per_second"].notna().any()
    return f"{split}/loss" if language else f"{split}/accuracy"


def results(
    runs: pd.DataFrame,
    budgets: dict[Place, Budget],
    first: str | None = None,
    judging: Callable[[str], Plan] = _UNREGISTERED,
    histories: Histories | None = None,
) -> list[Results]:
    """Return the results of each dataset and model.

    All comparisons by the same metric are one family: with each baseline, and those of ``rules``.

    Args:
        runs: the report runs.
        budgets: what tuning has cost.
        first: the optimizer that others are compared with where there is none of `BASELINES`.
        judging: how comparisons by a metric are judged.
        histories: of the runs; with them, the target is the first baseline's median final value.
    """
    place = runs.groupby(["dataset", "model"], dropna=False)
    metrics = place["id"].transform(lambda ids: metric_of(runs.loc[ids.index]))
    judged = [runs[metrics == metric] for metric in sorted(set(metrics))]
    return [
        one
        for part in judged
        for one in _judged(part, budgets, first, judging(metric_of(part)), histories)
    ]


def _judged(
    runs: pd.DataFrame,
    budgets: dict[Place, Budget],
    first: str | None,
    plan: Plan,
    histories: Histories | None,
) -> list[Results]:
    metric = metric_of(runs)
    baselines, absent = _baselines(build_table(runs, metric=metric).rows, first)
    table = build_table(
        runs, metric=metric, spread="interval", baseline=tuple(baselines.values()), plan=plan
    )
    by_id = {str(run["id"]): run for run in records(runs, SECONDS)}
    all_found = []
    for j, column in enumerate(table.columns):
        dataset, _, model = column.partition("/")
        here = runs[(runs["dataset"] == dataset) & (runs["model"] == model)]
        used = {
            label: [by_id[run_id] for run_id in line[j].run_ids]
            for label, line in zip(table.rows, table.cells, strict=True)
        }
        shared, why = table.timing[j].apart, table.timing[j].mixed
        targets, of_target = _target_tables(here, next(iter(baselines), None), histories)
        rows = []
        for i, label in enumerate(table.rows):
            cell, optimizer = table.cells[i][j], optimizer_of(label)
            if not cell.n and not cell.diverged:
                continue
            of_row = [by_id[run_id] for run_id in cell.run_ids]
            rows.append(
                Row(
                    label, optimizer, cell,
                    dict(_named(baselines, cell.comparisons)),
                    tuple(_cell(target, cell) for target in targets),
                    budgets.get((dataset, model, optimizer), Budget()),
                    of_row[0] if of_row else None,
                    devices_of(of_row),
                )
            )  # fmt: skip
        notes = [note for note in table.notes if not note.startswith("s/epoch")]
        notes += absent
        notes += [_LOSS.format(metric=metric)] if metric.endswith("loss") else []
        timed = "those of the same runs that have seconds" if shared else "the same runs"
        notes += [f"Seconds withheld: {SECONDS} of {column}: {why}."] if why else []
        notes += [] if why else [_SECONDS.format(runs=timed)]
        if shared and not why:
            notes.append(_SHARED.format(told=whose(used, shared)))
        every_run = [run for runs_of_row in used.values() for run in runs_of_row]
        if not why and every_run and all(map(is_packed, every_run)):
            notes.append(_ALL_SHARED)
        notes += _graphs(used) if not why else []
        notes += [_uneven(row) for row in rows if _is_uneven(row)]
        notes += [*of_target, _REACHED] if targets else of_target
        all_found.append(
            Results(dataset, model, tuple(rows), table, not why, targets, tuple(baselines),
                    tuple(dict.fromkeys(notes)))
        )  # fmt: skip
    return all_found


def _named(
    names: Iterable[str], comparisons: Sequence[Comparison | None]
) -> Iterator[tuple[str, Comparison]]:
    for name, one in zip(names, comparisons, strict=True):
        if one is not None:
            yield name, one


def _baselines(rows: Sequence[str], first: str | None) -> tuple[dict[str, str], list[str]]:
    """Return the label of each optimizer to compare with, and notes on those that are not there."""
    if len(rows) == 1:
        return {}, []  # nothing to compare it with
    there = {name: label for name in BASELINES if (label := only_row(rows, name)) is not None}
    label = only_row(rows, first) if first else None
    if not there and first and label is not None:
        none = " or ".join(BASELINES)
        return {first: label}, [f"No row {none} in this study: compared with {first}, its first."]
    return there, [f"No row {name} in this study." for name in BASELINES if name not in there]


def only_row(rows: Sequence[str], name: str) -> str | None:
    """Return the label of the row of an optimizer; None where there is none, or several."""
    own = [label for label in rows if optimizer_of(label) == name]
    return own[0] if len(own) == 1 else None


def _target_tables(
    runs: pd.DataFrame, baseline: str | None, histories: Histories | None
) -> tuple[tuple[Table, ...], list[str]]:
    """Return what it took to reach the target, by `_TO_TARGET`, and notes on it.

    Args:
        runs: of one dataset and model.
        baseline: whose final value is the target; without it, or ``histories``, the runs' own is.
        histories: of the runs.
    """
    asked: Any = {}
    row = baseline and only_row(build_table(runs, metric=metric_of(runs)).rows, baseline)
    if row and histories:
        asked = {"target": "auto", "baseline": (row,), "histories": histories}
    elif REACHED not in runs or not runs[REACHED].notna().any():
        return (), []
    tables: list[Table] = []
    notes: list[str] = []
    for metric in _TO_TARGET:
        if metric == "target/joules" and not runs.get("energy/joules", pd.Series()).notna().any():
            continue
        try:
            table = build_table(runs, metric=metric, **asked)
        except ValueError:  # seconds that cannot be compared, for the reason that the column gives
            continue
        notes += [note for note in table.notes if is_about_target(note)]
        if any(not math.isnan(cell.mean) for line in table.cells for cell in line):
            tables.append(table)
    return tuple(tables), notes


def _cell(table: Table | None, like: Cell) -> Cell | None:
    """Return the cell of ``table`` that is of the runs of ``like``."""
    ids = set(like.run_ids)
    cells = [cell for row in table.cells for cell in row] if table else []
    return next((cell for cell in cells if ids & set(cell.run_ids)), None)


def _graphs(used: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return a note of the rows whose steps no graph replayed, where those of others were."""
    told = {label: {run.get(GRAPH) for run in runs} - {None} for label, runs in used.items()}
    launched = [label for label, found in told.items() if found == {False}]
    replayed = any(True in found for found in told.values())
    return [_GRAPH.format(launched=", ".join(launched))] if launched and replayed else []


def _away(row: Row) -> list[float]:
    """Return by which factor each of the row's seconds is off their median, either way."""
    seconds = row.cell.seconds
    return [max(one, median(seconds)) / min(one, median(seconds)) for one in seconds]


def _is_uneven(row: Row) -> bool:
    return any(factor > UNEVEN for factor in _away(row))


def _uneven(row: Row) -> str:
    away = [factor for factor in _away(row) if factor > UNEVEN]
    return (
        f"{RED} Uneven seconds: {len(away)} of {len(row.cell.seconds)} runs of {row.label}, by a"
        f" factor of up to {max(away):.2f} off the median."
    )


def devices_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return each model of device, with how many runs it had at a time if ever more than one."""
    found: dict[str, set[int]] = defaultdict(set)
    for run in runs:
        at_once = int(run["provenance.packed"]) if is_packed(run) else 1
        found[str(run.get("provenance.device") or "not recorded")].add(at_once)
    return tuple(
        name if counts == {1} else f"{name}, {' or '.join(map(str, sorted(counts)))} runs at once"
        for name, counts in sorted(found.items())
    )


def markdown(found: Results) -> str:
    """Return the table as Markdown."""
    header = ["optimizer", f"{found.table.metric} [95 %]", "trials", "settings",
              "s/epoch", "device"]  # fmt: skip
    badge = common_badge(found.table)
    header += [f"vs {name} [95 %], corrected p{badge and f', {badge}'}" for name in found.baselines]
    header += [_TO_TARGET[table.metric] for table in found.targets]
    common = usual([row.budget for row in found.rows])
    shown = WrittenTable(header, [_line(row, found, common) for row in found.rows])
    return write(shown, "markdown")


def _line(row: Row, found: Results, common: tuple[int, int, float]) -> list[str]:
    mark = "" if row.budget.cost == common else f" {RED}"
    words = f"{_bold(value(row.cell, found.table), row.cell.best)} {_seeds(row.cell)}"
    line = [row.label, words, f"{row.budget.trials}{mark}"]
    line.append(row.budget.settings(row.run) if row.run else NOTHING)
    line += [_spread(row), ", ".join(row.devices) or NOTHING]
    line += [comparison(row.against.get(name), found.table) for name in found.baselines]
    return [*line, *map(_to_target, row.targets)]


def comparison(one: Comparison | None, table: Table) -> str:
    """Return "+0.31 [+0.02, +0.60] **better**, p = 0.012", or a dash."""
    if one is None or one.n < 2:
        return comparison_text(one, table.metric)
    verdict = one.verdict if one.verdict == "undecided" else f"**{one.verdict}**"
    badge = f", {badge_text(one)}" if one.badge and not common_badge(table) else ""
    return f"{difference(one, table.metric)} {verdict}, {p_words(one.decisive_p)}{badge}"


def p_words(p: float) -> str:
    """Return "p = 0.012" or "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _to_target(cell: Cell | None) -> str:
    """Return "506.7 (10 of 10)"; "missed" where fewer than half of the runs got there."""
    if cell is None or not cell.n:
        return NOTHING
    took = "missed" if math.isinf(cell.mean) else _digits(cell.mean)
    return f"{took} ({cell.reached} of {cell.n})"


def _spread(row: Row) -> str:
    if not row.cell.seconds:
        return NOTHING
    ends = f"[{_digits(min(row.cell.seconds))}, {_digits(max(row.cell.seconds))}]"
    return f"{_digits(median(row.cell.seconds))} {ends}{f' {RED}' if _is_uneven(row) else ''}"


def _digits(number: float) -> str:
    return f"{number:.3f}" if abs(number) < 10 else f"{number:.1f}"


def _seeds(cell: Cell) -> str:
    parts = [f"{cell.n}/{cell.expected}"]
    parts += ["partial"] if cell.n < cell.expected else []
    parts += [f"{cell.diverged} diverged"] if cell.diverged else []
    return f"({', '.join(parts)})"


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text
