"""A table for a paper (LaTeX, booktabs) and for a page (an HTML fragment)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

from analysis.table.shown import Part, Shown

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
    head = "".join(f"<th>{escape(name)}</th>" for name in words.header)
    lines = ["<table>", f"<thead><tr>{head}</tr></thead>", "<tbody>"]
    for label, parts in words.rows:
        cells = "".join(f"<td>{_html_part(part)}</td>" for part in parts)
        lines.append(f"<tr><th>{escape(label)}</th>{cells}</tr>")
    best = [f"Bold: {words.best_note}"] if words.best_note else []
    notes = [*best, *words.notes, *(words.ids if ids else ())]
    lines += ["</tbody>", "</table>", "<ul>"]
    lines += [*(f"<li>{escape(note)}</li>" for note in notes), "</ul>"]
    return "\n".join(lines) + "\n"


def _html_part(part: Part) -> str:
    text = f"<b>{escape(part.text)}</b>" if part.best else escape(part.text)
    return f"{text} {escape(part.after)}".strip()
