"""The forms of a table over seeds: for people as text or markup, for programs as tidy CSV."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from analysis.judge.verdicts import Comparison
from analysis.table.model import Cell, Table, in_percent, possible
from bench import table_writer
from bench.table_writer import Form, Marked

NOTHING = "–"
_BEST = "of its column, among the rows with every seed finished where there are any."
_CSV = (
    "row", "column", "metric", "mean", "std", "n", "expected_n", "diverged",
    "seconds_per_epoch", "run_ids", "iqm", "interval_low", "interval_high",
    "baseline", "difference", "difference_low", "difference_high", "pairs", "p", "adjusted_p",
    "equivalence_p", "verdict", "registered", "seeds_needed", "reached",
)  # fmt: skip


def render(table: Table, form: Form, *, terminal: bool = False, ids: bool = False) -> str:
    """Return ``table`` in a form.

    Args:
        table: what to show.
        form: see `bench.table_writer.write`.
        terminal: whether text may be bold.
        ids: whether the runs of each cell are named below the table (CSV always names them).
    """
    shown = _tidy(table) if form == "csv" else _for_people(table, ids)
    return table_writer.write(shown, form, terminal=terminal)


def _for_people(table: Table, ids: bool) -> table_writer.Table:
    badge = common_badge(table)
    header = [table.corner]
    for name in table.columns:
        header += [name, "s/epoch"]
        header += [f"vs {name}{badge and f', {badge}'}" for name in table.baselines]
        header += [f"seeds for {number_text(table.resolve, table.metric)}"] if table.resolve else []
    marked = any(cell.best for row in table.cells for cell in row)
    best = "mean" if table.statistic == "mean" else "interquartile mean"
    sources = [
        f"{label}, {column}: {', '.join(cell.run_ids) or 'none'}"
        for label, row in zip(table.rows, table.cells, strict=True)
        for column, cell in zip(table.columns, row, strict=True)
    ]
    return table_writer.Table(
        header=header,
        rows=[
            [label, *(part for cell in row for part in _parts(cell, table, not badge))]
            for label, row in zip(table.rows, table.cells, strict=True)
        ],
        bold=f"best {best} {_BEST}" if marked else "",
        notes=[*contrast_lines(table), *table.notes],
        sources=sources if ids else (),
    )


def _parts(cell: Cell, table: Table, mixed: bool) -> list[str | Marked]:
    own = Marked(value(cell, table), f" {_count(cell)}")
    parts = [own if cell.best else str(own), _seconds(cell)]
    for one in cell.comparisons:
        badge = f", {badge_text(one)}" if one and one.badge and one.n > 1 and mixed else ""
        parts.append(f"{comparison_text(one, table.metric)}{badge}")
    if table.resolve:
        parts.append(NOTHING if cell.needed is None else str(cell.needed))
    return parts


def value(cell: Cell, table: Table) -> str:
    """Return "93.21 ± 0.15", "93.21 [92.84, 93.58]", "93.21" for one run, or a dash for none."""
    if cell.n == 0 or math.isnan(cell.mean):
        return NOTHING
    if math.isinf(cell.mean):
        return "missed"
    centre = cell.mean if table.statistic == "mean" else cell.iqm
    number = partial(number_text, metric=table.metric, size=centre)
    text = number(centre)
    if table.spread == "std":
        return text if math.isnan(cell.std) else f"{text} ± {number(cell.std)}"
    if math.isnan(cell.interval.low):
        return text
    scale = 100.0 if in_percent(table.metric) else 1.0
    ends = possible(table.metric, scale * np.array(cell.interval)) / scale
    return f"{text} [{', '.join(number(float(end)) for end in ends)}]"


def common_badge(table: Table) -> str:
    """Return the badge that all comparisons of a table have; empty where they differ."""
    every = table.section.comparisons.values() if table.section else ()
    badges = {badge_text(one) for one in every if one.badge}
    return badges.pop() if len(badges) == 1 else ""


def badge_text(one: Comparison) -> str:
    """Return "registered, primary", "found afterwards", or what lacks; a dash without a badge."""
    if one.badge is None:
        return NOTHING
    return f"{one.badge}, {one.badge.role}" if one.badge.registered else str(one.badge)


def contrast_lines(table: Table) -> list[str]:
    """Return a line for each comparison that was asked for pair by pair."""
    if table.section is None:
        return []
    several = len(table.columns) > 1
    lines = []
    for asked, one in table.section.contrasts.items():
        there = f"{table.columns[asked.column]}: " if several else ""
        p = f", p = {one.decisive_p:.3g}" if one.n > 1 else ""
        badge = f"; {badge_text(one)}" if one.badge else ""
        text = comparison_text(one, table.metric)
        lines.append(f"{there}{asked.method} against {asked.other}: {text}{p}{badge}.")
    return lines


def comparison_text(one: Comparison | None, metric: str) -> str:
    """Return "+0.31 [+0.02, +0.60] better", or a dash for the baseline itself and lone runs."""
    if one is None or one.n == 0:
        return NOTHING
    return f"{difference(one, metric)}{f' {one.verdict}' if one.n > 1 else ''}"


def difference(found: Comparison, metric: str) -> str:
    """Return "+0.31 [+0.02, +0.60]", "+0.31 (1 pair)", or a dash for no pair."""
    if found.n == 0:
        return NOTHING
    number = partial(signed_text, metric=metric, size=found.difference)
    text = number(found.difference)
    if found.n == 1:
        return f"{text} (1 pair)"
    return f"{text} [{', '.join(map(number, found.interval))}]"


def number_text(number: float, metric: str, size: float = 1.0, sign: str = "") -> str:
    """Return a number; with an exponent where ``size``, that of its centre, is hard to read."""
    if in_percent(metric):
        return f"{100 * number:{sign}.2f}"
    readable = size == 0 or 1e-3 <= abs(size) < 1e6
    return f"{number:{sign}{'.4f' if readable else '.3e'}}"


def signed_text(number: float, metric: str, size: float) -> str:
    """Return a difference as `number_text` does, with its sign."""
    text = number_text(number, metric, size, "+")
    # Rounding's own noise has no sign; an end of an interval just below 0 has.
    return text if "e" in text or abs(number) >= 1e-8 else text.replace("-", "+")


def _count(cell: Cell) -> str:
    diverged = f", {cell.diverged} diverged" if cell.diverged else ""
    reached = "" if cell.reached is None else f"{cell.reached} of "
    return f"({reached}{cell.n}/{cell.expected}{diverged})"


def _seconds(cell: Cell) -> str:
    seconds = cell.seconds_per_epoch
    if math.isnan(seconds):
        return NOTHING
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"


def _tidy(table: Table) -> table_writer.Table:
    """Return one row a cell and baseline, numbers unrounded (fractions stay fractions).

    What is absent is empty.
    """
    rows = []
    for label, row in zip(table.rows, table.cells, strict=True):
        for column, cell in zip(table.columns, row, strict=True):
            numbers = [cell.mean, cell.std, cell.n, cell.expected, cell.diverged]
            own = _numbers(*numbers, cell.seconds_per_epoch)
            spread = _numbers(cell.iqm, *cell.interval)
            ids = ";".join(cell.run_ids)
            rest = ["" if one is None else str(one) for one in (cell.needed, cell.reached)]
            compared = zip(table.baselines, cell.comparisons, strict=True)
            for baseline, one in compared if table.baselines else [("", None)]:
                judged = [baseline, *_compared(one)]
                rows.append([label, column, table.metric, *own, ids, *spread, *judged, *rest])
    return table_writer.Table(_CSV, rows)


def _compared(one: Comparison | None) -> list[str]:
    if one is None:
        return [""] * 9
    numbers = _numbers(one.difference, *one.interval, one.n)
    if one.n < 2:
        return [*numbers, *[""] * 5]
    badge = "" if one.badge is None else str(one.badge)
    tested = _numbers(one.p, one.adjusted_p, one.equivalence_p)
    return [*numbers, *tested, one.verdict, badge]


def _numbers(*numbers: float) -> list[str]:
    return ["" if math.isnan(number) else repr(number) for number in numbers]
