from __future__ import annotations

import csv
import io
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from bench.options import show
from bench.table_writer import Form, Marked, Table, drawn, write

TABLE = Table(
    header=("optimizer", "digits_1/a&b", "s/epoch"),
    rows=(
        ("adamw lr=1e-3 {x}", Marked("93.21 ± 0.15", " (3/3)"), "–"),
        ("<sgd> #2 50% [a|b]", "50.00 (1/3, 2 diverged)", Marked("1.235", before="about ")),
    ),
    bold="best mean of its column.",
    notes=("All_of & it.",),
    sources=("adamw, digits: a, b",),
)
PLAIN = [
    ["optimizer", "digits_1/a&b", "s/epoch"],
    ["adamw lr=1e-3 {x}", "93.21 ± 0.15 (3/3)", "–"],
    ["<sgd> #2 50% [a|b]", "50.00 (1/3, 2 diverged)", "about 1.235"],
]
BOLD = ["93.21 ± 0.15", "1.235"]


class Cells(HTMLParser):
    """The cells of each row of a table, what is bold in them, and the items of lists."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.bold: list[str] = []
        self.items: list[str] = []
        self.right = 0
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.right += ("style", "text-align:right") in attrs
        if tag == "li":
            self.items.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if {"td", "th"} & set(self.open) and {"b", "strong"} & set(self.open):
            self.bold.append(data)
        if "li" in self.open:
            self.items[-1] += data


def test_text_is_aligned_and_marks_what_is_bold() -> None:
    lines = write(TABLE, "text").splitlines()
    assert lines[0].split("  ")[0] == "optimizer"
    assert lines[2].endswith(" –")
    assert " * 93.21 ± 0.15 (3/3) " in lines[2]
    assert lines[3].startswith("<sgd> #2 50% [a|b] ")
    assert lines[3].endswith(" * about 1.235")
    notes = ["* best mean of its column.", "All_of & it.", "", "Runs:", "adamw, digits: a, b"]
    assert lines[4:] == ["", *notes]


def test_a_terminal_shows_bold() -> None:
    shown = write(TABLE, "text", terminal=True)
    assert "\x1b[1m* 93.21 ± 0.15 (3/3)\x1b[0m" in shown
    assert shown.replace("\x1b[1m", "").replace("\x1b[0m", "") == write(TABLE, "text")


def test_html_holds_every_cell_escaped() -> None:
    found = Cells(write(TABLE, "html"))
    assert (found.rows, found.bold) == (PLAIN, BOLD)
    assert found.items == ["Bold: best mean of its column.", "All_of & it.", "adamw, digits: a, b"]


def test_markdown_is_read_back_by_a_parser() -> None:
    text = write(TABLE, "markdown")
    assert text.splitlines()[1] == "| --- | ---: | ---: |"
    found = Cells(MarkdownIt("commonmark").enable("table").render(text))
    assert (found.rows, found.bold) == (PLAIN, BOLD)
    assert found.right == 2 * 3
    assert found.items == ["Bold: best mean of its column.", "All_of & it.", "adamw, digits: a, b"]


def test_cells_may_be_markdown_already() -> None:
    one = Table(("`a`", "[b](#c)"), [("x|y", Marked("<i>z</i>"))], align="ll", markdown=True)
    lines = ["| `a` | [b](#c) |", "| --- | --- |", r"| x\|y | **<i>z</i>** |"]
    assert write(one, "markdown") == "\n".join([*lines, ""])


def test_latex_is_booktabs_and_escaped() -> None:
    lines = write(TABLE, "latex").splitlines()
    assert lines[1:4] == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"optimizer & digits\_1/a\&b & s/epoch \\",
    ]
    assert lines[5] == r"adamw lr=1e-3 \{x\} & \textbf{93.21 $\pm$ 0.15} (3/3) & -- \\"
    assert lines[6].startswith(r"$<$sgd$>$ \#2 50\% [a|b] & 50.00 (1/3, 2 diverged) & about ")
    assert lines[7:9] == [r"\bottomrule", r"\end{tabular}"]
    notes = ["% bold: best mean of its column.", "% All_of & it.", "% adamw, digits: a, b"]
    assert lines[9:] == notes


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_latex_compiles(tmp_path: Path) -> None:
    begin = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text("\n".join([begin, write(TABLE, "latex"), r"\end{document}"]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0


def test_csv_has_the_cells_alone() -> None:
    assert list(csv.reader(io.StringIO(write(TABLE, "csv")))) == PLAIN


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv"])
def test_nothing_is_below_a_table_without_notes(form: Form) -> None:
    lines = write(Table(("a", "b"), [("1", "2")]), form).splitlines()
    assert len(lines) == {"text": 3, "markdown": 3, "latex": 8, "csv": 2}[form]


@pytest.mark.parametrize("variable", ["COLUMNS", "FORCE_COLOR", "NO_COLOR", "TERM", "LINES"])
def test_the_environment_changes_no_byte(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow terminal must not cut numbers, nor a CI variable add colours to a file."""
    wide = Table(("optimizer", "digits/" + "x" * 90), [("a", "1")])
    forms: tuple[Form, ...] = ("text", "markdown", "latex", "html", "csv")
    before = [write(wide, form) for form in forms]
    monkeypatch.setenv(variable, "20" if variable != "TERM" else "xterm-256color")
    assert [write(wide, form) for form in forms] == before
    assert "x" * 90 in before[0]
    assert "\x1b" not in before[0]


def test_drawn_on_a_narrow_terminal_cuts_no_cell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    show(drawn(TABLE))
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip().split("  ")[-1] for line in lines] == ["s/epoch", "–", "* about 1.235"]
