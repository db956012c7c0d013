"""The forms of a table: text for people, Markdown for documents, tidy CSV for programs.

A form depends on the table alone, not on terminal width or environment: the same runs give the
same bytes.
"""

from __future__ import annotations

import csv
import io
import math
from typing import Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from analysis.table_build import Cell, Table, in_percent

_NOTHING = "–"
_BEST = "best mean of its column, among the rows with every seed finished where there are any."
_CSV = (
    "row", "column", "metric", "mean", "std", "n", "expected_n", "diverged",
    "seconds_per_epoch", "run_ids",
)  # fmt: skip


def render(table: Table, form: str, *, terminal: bool = False) -> str:
    """Return ``table`` as "text", "markdown" or "csv"; ``terminal`` adds bold to text."""
    if form == "csv":
        return _csv(table)
    return _markdown(table) if form == "markdown" else _text(table, terminal)


def _value(cell: Cell, metric: str) -> str:
    """Return "93.21 ± 0.15", "93.21" for a single run, or a dash for none."""
    if cell.n == 0:
        return _NOTHING
    numbers = [cell.mean] if math.isnan(cell.std) else [cell.mean, cell.std]
    if in_percent(metric):
        return " ± ".join(f"{100 * number:.2f}" for number in numbers)
    plain = cell.mean == 0 or 1e-3 <= abs(cell.mean) < 1e6
    return " ± ".join(f"{number:.4f}" if plain else f"{number:.3e}" for number in numbers)


def _count(cell: Cell) -> str:
    diverged = f", {cell.diverged} diverged" if cell.diverged else ""
    return f"({cell.n}/{cell.expected}{diverged})"


def _seconds(cell: Cell) -> str:
    seconds = cell.seconds_per_epoch
    if math.isnan(seconds):
        return _NOTHING
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"


def _has_best(table: Table) -> bool:
    return any(cell.best for row in table.cells for cell in row)


def _text(table: Table, terminal: bool) -> str:
    """Return the table drawn by rich, as wide as its content."""
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    drawn.add_column(escape(table.corner), no_wrap=True)
    for name in table.columns:
        drawn.add_column(escape(name), no_wrap=True, justify="right")
        drawn.add_column("s/epoch", no_wrap=True, justify="right")
    for label, row in zip(table.rows, table.cells, strict=True):
        shown = [escape(label)]
        for cell in row:
            value = f"{_value(cell, table.metric)} {_count(cell)}"
            shown += [f"[bold]* {value}[/bold]" if cell.best else value, _seconds(cell)]
        drawn.add_row(*shown)
    stream = io.StringIO()
    # Every choice that rich would take from the environment is made here.
    colors: Literal["standard"] | None = "standard" if terminal else None
    console = Console(file=stream, width=100_000, color_system=colors, highlight=False)
    console.print(drawn)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    best = [f"* {_BEST}"] if _has_best(table) else []
    return "\n".join([*lines, "", *best, *table.notes]) + "\n"


def _markdown(table: Table) -> str:
    header = [table.corner]
    for name in table.columns:
        header += [name, "s/epoch"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for label, row in zip(table.rows, table.cells, strict=True):
        shown = [label]
        for cell in row:
            value = _value(cell, table.metric)
            value = f"**{value}**" if cell.best else value
            shown += [f"{value} {_count(cell)}", _seconds(cell)]
        lines.append(shown)
    best = [f"**Bold**: {_BEST}"] if _has_best(table) else []
    drawn = ["| " + " | ".join(part.replace("|", r"\|") for part in line) + " |" for line in lines]
    return "\n".join([*drawn, "", *(f"- {note}" for note in [*best, *table.notes])]) + "\n"


def _csv(table: Table) -> str:
    """Return one line a cell, numbers unrounded (fractions stay fractions), empty where absent."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV)
    for label, row in zip(table.rows, table.cells, strict=True):
        for column, cell in zip(table.columns, row, strict=True):
            numbers = [cell.mean, cell.std, cell.n, cell.expected, cell.diverged]
            numbers.append(cell.seconds_per_epoch)
            shown = ["" if math.isnan(number) else repr(number) for number in numbers]
            writer.writerow([label, column, table.metric, *shown, ";".join(cell.run_ids)])
    return stream.getvalue()
