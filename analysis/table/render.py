"""The forms of a table over seeds: for people as text or markup, for programs as tidy CSV."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from analysis.table.comparisons import Comparison
from analysis.table.model import Cell, Table, in_percent, possible
from bench import table_writer
from bench.table_writer import Form, Marked

NOTHING = "–"
_BEST = "of its column, among the rows with every seed finished where there are any."
_CSV = (
    "row", "column", "metric", "mean", "std", "n", "expected_n", "diverged",
    "seconds_per_epoch", "run_ids", "iqm", "interval_low", "interval_high",
    "baseline", "difference", "difference_low", "difference_high", "pairs", "test", "p",
    "adjusted_p", "verdict", "seeds_needed", "reached",
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
    header = [table.corner]
    for name in table.columns:
        header += [name, "s/epoch"]
        header += [f"vs {table.baseline}"] if table.baseline else []
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
            [label, *(part for cell in row for part in _parts(cell, table))]
            for label, row in zip(table.rows, table.cells, strict=True)
        ],
        bold=f"best {best} {_BEST}" if marked else "",
        notes=table.notes,
        sources=sources if ids else (),
    )


def _parts(cell: Cell, table: Table) -> list[str | Marked]:
    own = Marked(value(cell, table), f" {_count(cell)}")
    parts = [own if cell.best else str(own), _seconds(cell)]
    if table.baseline:
        parts.append(comparison_text(cell, table.metric))
    if table.resolve:
        parts.append(NOTHING if cell.needed is None else str(cell.needed))
    return parts


def value(cell: Cell, table: Table) -> str:
    """Return "93.21 ± 0.15", "93.21 [92.84, 93.58]", "93.21" for one run, or a dash for none."""
    if cell.n == 0:
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


def comparison_text(cell: Cell, metric: str) -> str:
    """Return "+0.31 [+0.02, +0.60] better", or a dash for the baseline itself and lone runs."""
    found = cell.comparison
    if found is None or found.n == 0:
        return NOTHING
    return f"{difference(found, metric)}{f' {found.verdict}' if found.n > 1 else ''}"


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
    """Return one row a cell, numbers unrounded (fractions stay fractions), empty where absent."""
    rows = []
    for label, row in zip(table.rows, table.cells, strict=True):
        for column, cell in zip(table.columns, row, strict=True):
            numbers = [cell.mean, cell.std, cell.n, cell.expected, cell.diverged]
            own = _numbers(*numbers, cell.seconds_per_epoch)
            spread = _numbers(cell.iqm, *cell.interval)
            compared = _compared(cell, table.baseline)
            ids = ";".join(cell.run_ids)
            reached = "" if cell.reached is None else str(cell.reached)
            rows.append([label, column, table.metric, *own, ids, *spread, *compared, reached])
    return table_writer.Table(_CSV, rows)


def _compared(cell: Cell, baseline: str | None) -> list[str]:
    found = cell.comparison
    needed = "" if cell.needed is None else str(cell.needed)
    if found is None:
        return [baseline or "", *[""] * 8, needed]
    numbers = _numbers(found.difference, *found.interval, found.n)
    tested = [found.test, *_numbers(found.p, found.adjusted_p), found.verdict]
    return [baseline or "", *numbers, *(tested if found.n > 1 else [""] * 4), needed]


def _numbers(*numbers: float) -> list[str]:
    return ["" if math.isnan(number) else repr(number) for number in numbers]
