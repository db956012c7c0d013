"""The one writer of tables: cells of text, in a form for a terminal, a page, a paper or a program.

A form depends on the table alone, not on terminal width or environment: the same table gives the
same bytes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape as html_escape
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

Form = Literal["text", "markdown", "latex", "html", "csv"]
Style = Literal["ruled", "plain", "boxed"]

_STYLES: dict[Style, dict[str, Any]] = {
    "ruled": {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False},
    "plain": {"box": None, "padding": (0, 2, 0, 0), "header_style": "bold"},
    "boxed": {"box": box.ASCII_DOUBLE_HEAD, "pad_edge": False},
}
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


@dataclass(frozen=True)
class Marked:
    """A cell whose ``text`` is bold, with plain text before and after it."""

    text: str
    after: str = ""
    before: str = ""

    def __str__(self) -> str:
        """Return the whole cell without marks."""
        return f"{self.before}{self.text}{self.after}"


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        header: [columns].
        rows: of [columns] cells each.
        align: "l" or "r" a column; the default is left for the first and right for the others.
        bold: what bold cells are; the first note. Empty where nothing needs to be said.
        notes: below the table; a CSV file has none.
        sources: what is behind the cells, a line each, below the notes.
        markdown: the cells are Markdown already, in which only ``|`` is still to be escaped.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | Marked]]
    align: str = ""
    bold: str = ""
    notes: Sequence[str] = ()
    sources: Sequence[str] = ()
    markdown: bool = False

    @property
    def alignment(self) -> str:
        """The alignment of each column."""
        return self.align or "l" + "r" * (len(self.header) - 1)

    def footer(self, mark: str) -> list[str]:
        """Return what is below the table, a line each; ``mark`` is how the form shows bold."""
        return [*([f"{mark} {self.bold}"] if self.bold else []), *self.notes, *self.sources]


def write(table: Table, form: Form, *, terminal: bool = False) -> str:
    """Return ``table`` in a form, with a newline at its end.

    Args:
        table: what to show.
        form: "text", "markdown", "latex" (booktabs), "html" (a fragment without styles) or "csv".
        terminal: whether text may hold a terminal's codes for bold.
    """
    if form == "text":
        return _text(table, terminal)
    return {"markdown": _markdown, "latex": _latex, "html": _html, "csv": _csv}[form](table)


def drawn(table: Table, style: Style = "plain") -> RichTable:
    """Return the table alone for `bench.options.show`, as wide as its content."""
    shown = RichTable(**_STYLES[style])
    for name, side in zip(table.header, table.alignment, strict=True):
        shown.add_column(escape(name), no_wrap=True, justify="left" if side == "l" else "right")
    for row in table.rows:
        shown.add_row(*map(_rich_cell, row))
    return shown


def _rich_cell(cell: str | Marked) -> str:
    return f"[bold]* {escape(str(cell))}[/bold]" if isinstance(cell, Marked) else escape(cell)


def _text(table: Table, terminal: bool) -> str:
    stream = io.StringIO()
    # Every choice that rich would take from the environment is made here.
    colors: Literal["standard"] | None = "standard" if terminal else None
    console = Console(file=stream, width=100_000, color_system=colors, highlight=False)
    console.print(drawn(table, "ruled"))
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    bold = [f"* {table.bold}"] if table.bold else []
    sources = ["", "Runs:", *table.sources] if table.sources else []
    below = [*bold, *table.notes, *sources]
    return "\n".join([*lines, *(["", *below] if below else [])]) + "\n"


def _markdown(table: Table) -> str:
    rule = ["---" if side == "l" else "---:" for side in table.alignment]
    lines = [list(table.header), rule, *(map(_markdown_cell, row) for row in table.rows)]
    safe = _without_bars if table.markdown else markdown_text
    rows = ["| " + " | ".join(map(safe, line)) + " |" for line in lines]
    bold = [f"**Bold**: {table.bold}"] if table.bold else []
    notes = [*bold, *map(markdown_text, (*table.notes, *table.sources))]
    return "\n".join([*rows, *([""] if notes else []), *(f"- {note}" for note in notes)]) + "\n"


def _markdown_cell(cell: str | Marked) -> str:
    return f"{cell.before}**{cell.text}**{cell.after}" if isinstance(cell, Marked) else cell


def _without_bars(text: str) -> str:
    return text.replace("|", r"\|")


def markdown_text(text: str) -> str:
    """Return ``text`` for a line of Markdown: no tag, link, code or end of a table's cell."""
    return _without_bars(_TAG.sub("&lt;", text).replace("](", r"]\(").replace("`", r"\`"))


def _latex(table: Table) -> str:
    """Return a ``tabular`` with booktabs rules; what is below it is comments."""
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{table.alignment}}}",
        "\\toprule",
        _latex_row(map(_tex, table.header)),
        "\\midrule",
        *(_latex_row(map(_latex_cell, row)) for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join([*lines, *(f"% {note}" for note in table.footer("bold:"))]) + "\n"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(cell: str | Marked) -> str:
    if isinstance(cell, Marked):
        return f"{_tex(cell.before)}\\textbf{{{_tex(cell.text)}}}{_tex(cell.after)}"
    return _tex(cell)


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _html(table: Table) -> str:
    """Return a ``<table>`` and what is below it as a list."""
    head = "".join(f"<th>{html_escape(name)}</th>" for name in table.header)
    lines = ["<table>", f"<thead><tr>{head}</tr></thead>", "<tbody>"]
    for label, *cells in table.rows:
        others = "".join(f"<td>{_html_cell(cell)}</td>" for cell in cells)
        lines.append(f"<tr><th>{_html_cell(label)}</th>{others}</tr>")
    notes = [f"<li>{html_escape(note)}</li>" for note in table.footer("Bold:")]
    return "\n".join([*lines, "</tbody>", "</table>", "<ul>", *notes, "</ul>"]) + "\n"


def _html_cell(cell: str | Marked) -> str:
    if isinstance(cell, Marked):
        bold = f"<b>{html_escape(cell.text)}</b>"
        return f"{html_escape(cell.before)}{bold}{html_escape(cell.after)}"
    return html_escape(cell)


def _csv(table: Table) -> str:
    stream = io.StringIO()
    rows = ([str(cell) for cell in row] for row in table.rows)
    csv.writer(stream, lineterminator="\n").writerows([table.header, *rows])
    return stream.getvalue()
