"""The forms of a table: text for people, Markdown, LaTeX, HTML, and tidy CSV for programs.

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

from analysis.table.documents import html, latex, markdown_text
from analysis.table.model import Cell, Table
from analysis.table.shown import Part, Shown, shown

Form = Literal["text", "markdown", "latex", "html", "csv"]
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
        form: "text", "markdown", "latex" (booktabs), "html" (a fragment) or "csv".
        terminal: whether text may be bold.
        ids: whether the runs of each cell are named below the table (CSV always names them).
    """
    if form == "csv":
        return _csv(table)
    words = shown(table)
    if form == "text":
        return _text(words, terminal, ids)
    if form == "markdown":
        return _markdown(words, ids)
    return latex(words, ids) if form == "latex" else html(words, ids)


def _text(words: Shown, terminal: bool, ids: bool) -> str:
    """Return the table drawn by rich, as wide as its content."""
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    drawn.add_column(escape(words.header[0]), no_wrap=True)
    for name in words.header[1:]:
        drawn.add_column(escape(name), no_wrap=True, justify="right")
    for label, parts in words.rows:
        drawn.add_row(escape(label), *(_marked(part) for part in parts))
    stream = io.StringIO()
    # Every choice that rich would take from the environment is made here.
    colors: Literal["standard"] | None = "standard" if terminal else None
    console = Console(file=stream, width=100_000, color_system=colors, highlight=False)
    console.print(drawn)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    best = [f"* {words.best_note}"] if words.best_note else []
    runs = ["", "Runs:", *words.ids] if ids else []
    return "\n".join([*lines, "", *best, *words.notes, *runs]) + "\n"


def _marked(part: Part) -> str:
    return f"[bold]* {escape(part.plain)}[/bold]" if part.best else escape(part.plain)


def _markdown(words: Shown, ids: bool) -> str:
    lines = [list(words.header), ["---", *["---:"] * (len(words.header) - 1)]]
    for label, parts in words.rows:
        shown_parts = [f"**{p.text}** {p.after}".strip() if p.best else p.plain for p in parts]
        lines.append([label, *shown_parts])
    best = [f"**Bold**: {words.best_note}"] if words.best_note else []
    drawn = ["| " + " | ".join(markdown_text(part) for part in line) + " |" for line in lines]
    notes = [*best, *map(markdown_text, (*words.notes, *(words.ids if ids else ())))]
    return "\n".join([*drawn, "", *(f"- {note}" for note in notes)]) + "\n"


def _csv(table: Table) -> str:
    """Return one line a cell, numbers unrounded (fractions stay fractions), empty where absent."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV)
    for label, row in zip(table.rows, table.cells, strict=True):
        for column, cell in zip(table.columns, row, strict=True):
            numbers = [cell.mean, cell.std, cell.n, cell.expected, cell.diverged]
            own = _numbers(*numbers, cell.seconds_per_epoch)
            spread = _numbers(cell.iqm, *cell.interval)
            compared = _compared(cell, table.baseline)
            ids = ";".join(cell.run_ids)
            reached = "" if cell.reached is None else str(cell.reached)
            line = [label, column, table.metric, *own, ids, *spread, *compared, reached]
            writer.writerow(line)
    return stream.getvalue()


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
