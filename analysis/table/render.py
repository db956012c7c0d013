"""The forms of a table: text for people, Markdown, LaTeX, HTML, and tidy CSV for programs.

A form depends on the table alone, not on terminal width or environment: the same runs give the
same bytes.

A table as words: the same ones in every form for people, before its escapes and rules.

A table for a paper (LaTeX, booktabs) and for a page (an HTML fragment).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape as html_escape
from typing import Literal

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from analysis.table.comparisons import Comparison
from analysis.table.model import Cell, Table, in_percent, possible

NOTHING = "–"
_BEST = "of its column, among the rows with every seed finished where there are any."


@dataclass(frozen=True)
class Part:
    """One entry: what is emphasised, and what follows it."""

    text: str
    after: str = ""
    best: bool = False

    @property
    def plain(self) -> str:
        """The whole entry as one text."""
        return f"{self.text} {self.after}".strip()


@dataclass(frozen=True)
class Shown:
    """``header`` [1 + entries]; ``rows``: label and its entries; notes; runs behind each cell."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Part, ...]], ...]
    notes: tuple[str, ...]
    best_note: str | None
    ids: tuple[str, ...]


def shown(table: Table) -> Shown:
    """Return the words of ``table``."""
    header = [table.corner]
    for name in table.columns:
        header += [name, "s/epoch"]
        header += [f"vs {table.baseline}"] if table.baseline else []
        header += [f"seeds for {_plain(table.resolve, table.metric)}"] if table.resolve else []
    rows = [
        (label, tuple(part for cell in row for part in _parts(cell, table)))
        for label, row in zip(table.rows, table.cells, strict=True)
    ]
    marked = any(cell.best for row in table.cells for cell in row)
    best = "mean" if table.statistic == "mean" else "interquartile mean"
    return Shown(
        header=tuple(header),
        rows=tuple(rows),
        notes=table.notes,
        best_note=f"best {best} {_BEST}" if marked else None,
        ids=tuple(
            f"{label}, {column}: {', '.join(cell.run_ids) or 'none'}"
            for label, row in zip(table.rows, table.cells, strict=True)
            for column, cell in zip(table.columns, row, strict=True)
        ),
    )


def _parts(cell: Cell, table: Table) -> list[Part]:
    parts = [Part(value(cell, table), _count(cell), cell.best), Part(_seconds(cell))]
    if table.baseline:
        parts.append(Part(comparison_text(cell, table.metric)))
    if table.resolve:
        parts.append(Part(NOTHING if cell.needed is None else str(cell.needed)))
    return parts


def value(cell: Cell, table: Table) -> str:
    """Return "93.21 ± 0.15", "93.21 [92.84, 93.58]", "93.21" for one run, or a dash for none."""
    if cell.n == 0:
        return NOTHING
    if math.isinf(cell.mean):
        return "missed"
    centre = cell.mean if table.statistic == "mean" else cell.iqm
    number = _plain if in_percent(table.metric) or _readable(centre) else _scientific
    text = number(centre, table.metric)
    if table.spread == "std":
        return text if math.isnan(cell.std) else f"{text} ± {number(cell.std, table.metric)}"
    if math.isnan(cell.interval.low):
        return text
    scale = 100.0 if in_percent(table.metric) else 1.0
    ends = possible(table.metric, scale * np.array(cell.interval)) / scale
    return f"{text} [{', '.join(number(float(end), table.metric) for end in ends)}]"


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
    readable = in_percent(metric) or _readable(found.difference)
    sign = _signed if readable else _signed_scientific
    text = sign(found.difference, metric)
    if found.n == 1:
        return f"{text} (1 pair)"
    return f"{text} [{', '.join(sign(end, metric) for end in found.interval)}]"


def _readable(number: float) -> bool:
    return number == 0 or 1e-3 <= abs(number) < 1e6


def _plain(number: float | None, metric: str) -> str:
    if number is None:
        return NOTHING
    return f"{100 * number:.2f}" if in_percent(metric) else f"{number:.4f}"


def _scientific(number: float | None, metric: str) -> str:
    del metric
    return f"{number:.3e}"


def _signed(number: float, metric: str) -> str:
    text = f"{100 * number:+.2f}" if in_percent(metric) else f"{number:+.4f}"
    # Rounding's own noise has no sign; an end of an interval just below 0 has.
    return text.replace("-", "+") if abs(number) < 1e-8 else text


def _signed_scientific(number: float, metric: str) -> str:
    del metric
    return f"{number:+.3e}"


def _count(cell: Cell) -> str:
    diverged = f", {cell.diverged} diverged" if cell.diverged else ""
    reached = "" if cell.reached is None else f"{cell.reached} of "
    return f"({reached}{cell.n}/{cell.expected}{diverged})"


def _seconds(cell: Cell) -> str:
    seconds = cell.seconds_per_epoch
    if math.isnan(seconds):
        return NOTHING
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"


_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def markdown_text(text: str) -> str:
    """Return ``text`` for a line of Markdown: no tag, link, code or end of a table's cell."""
    return _TAG.sub("&lt;", text).replace("](", r"]\(").replace("`", r"\`").replace("|", r"\|")


def latex(words: Shown, ids: bool) -> str:
    """Return a ``tabular`` with booktabs rules; its notes, and run ids, are comments."""
    columns = "l" + "r" * (len(words.header) - 1)
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        _line(_tex(name) for name in words.header),
        "\\midrule",
        *(_line([_tex(label), *map(_tex_part, parts)]) for label, parts in words.rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    best = [f"bold: {words.best_note}"] if words.best_note else []
    notes = [*best, *words.notes, *(words.ids if ids else ())]
    return "\n".join([*lines, *(f"% {note}" for note in notes)]) + "\n"


def _line(entries: Iterable[str]) -> str:
    return " & ".join(entries) + r" \\"


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _tex_part(part: Part) -> str:
    text = f"\\textbf{{{_tex(part.text)}}}" if part.best else _tex(part.text)
    return f"{text} {_tex(part.after)}".strip()


def html(words: Shown, ids: bool) -> str:
    """Return a ``<table>`` and its notes as a list, without styles."""
    head = "".join(f"<th>{html_escape(name)}</th>" for name in words.header)
    lines = ["<table>", f"<thead><tr>{head}</tr></thead>", "<tbody>"]
    for label, parts in words.rows:
        cells = "".join(f"<td>{_html_part(part)}</td>" for part in parts)
        lines.append(f"<tr><th>{html_escape(label)}</th>{cells}</tr>")
    best = [f"Bold: {words.best_note}"] if words.best_note else []
    notes = [*best, *words.notes, *(words.ids if ids else ())]
    lines += ["</tbody>", "</table>", "<ul>"]
    lines += [*(f"<li>{html_escape(note)}</li>" for note in notes), "</ul>"]
    return "\n".join(lines) + "\n"


def _html_part(part: Part) -> str:
    text = f"<b>{html_escape(part.text)}</b>" if part.best else html_escape(part.text)
    return f"{text} {html_escape(part.after)}".strip()


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
