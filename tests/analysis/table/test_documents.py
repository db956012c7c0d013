from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.table.documents import html, latex
from analysis.table.shown import Part, Shown

WORDS = Shown(
    header=("optimizer", "digits_1/a&b", "s/epoch"),
    rows=(
        ("adamw lr=1e-3 {x}", (Part("93.21 ± 0.15", "(3/3)", best=True), Part("–"))),
        ("<sgd> #2 50%", (Part("50.00", "(1/3, 2 diverged)"), Part("1.235"))),
    ),
    notes=("All_of & it.",),
    best_note="best mean of its column.",
    ids=("adamw, digits: a, b",),
)


def test_latex_is_booktabs_and_escaped() -> None:
    lines = latex(WORDS, False).splitlines()
    assert lines[1:4] == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"optimizer & digits\_1/a\&b & s/epoch \\",
    ]
    assert lines[5] == r"adamw lr=1e-3 \{x\} & \textbf{93.21 $\pm$ 0.15} (3/3) & -- \\"
    assert lines[6] == r"$<$sgd$>$ \#2 50\% & 50.00 (1/3, 2 diverged) & 1.235 \\"
    assert lines[7:9] == [r"\bottomrule", r"\end{tabular}"]
    assert lines[9:] == ["% bold: best mean of its column.", "% All_of & it."]
    assert latex(WORDS, True).splitlines()[-1] == "% adamw, digits: a, b"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_latex_compiles(tmp_path: Path) -> None:
    whole = [r"\documentclass{article}\usepackage{booktabs}\begin{document}", latex(WORDS, True)]
    (tmp_path / "t.tex").write_text("\n".join([*whole, r"\end{document}"]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0


class Cells(HTMLParser):
    """The cells of each row of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_html_holds_every_cell_escaped() -> None:
    parser = Cells()
    text = html(WORDS, True)
    parser.feed(text)
    assert parser.open == []
    assert parser.rows == [
        ["optimizer", "digits_1/a&b", "s/epoch"],
        ["adamw lr=1e-3 {x}", "93.21 ± 0.15 (3/3)", "–"],
        ["<sgd> #2 50%", "50.00 (1/3, 2 diverged)", "1.235"],
    ]
    assert "<b>93.21 ± 0.15</b>" in text
    assert "<li>adamw, digits: a, b</li>" in text
    assert "adamw, digits: a, b" not in html(WORDS, False)
