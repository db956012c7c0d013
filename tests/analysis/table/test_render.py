from __future__ import annotations

import csv
import io
import math
from typing import Any

import pytest

from analysis.judge.verdicts import Comparison
from analysis.stats import Interval
from analysis.table.model import Cell, Table
from analysis.table.render import render

NAN = math.nan


def cell(mean: float = NAN, std: float = NAN, n: int = 0, **more: object) -> Cell:
    given = {"expected": 3, "diverged": 0, "seconds": (), "run_ids": (), **more}
    return Cell(mean, std, n, **given)  # type: ignore[arg-type]


def table(metric: str = "test/accuracy", **more: object) -> Table:
    given: dict[str, object] = {
        "corner": "optimizer",
        "rows": ("adamw lr=0.01", "muon", "sgd [a|b]"),
        "columns": ("digits/convnet", "cifar10/resnet18"),
        "cells": (
            (
                cell(0.93214, 0.00154, 3, seconds=(1.23456,), run_ids=("a", "b", "c")),
                cell(0.5, NAN, 1, seconds=(123.46,), run_ids=("d",)),
            ),
            (
                cell(0.94, 0.01, 2, best=True, diverged=1, seconds=(12.0,)),
                cell(expected=3, diverged=2),
            ),
            (cell(), cell(expected=1)),
        ),
        "notes": ("What it shows.", "2 of 3 runs used."),
    }
    return Table(metric=metric, **(given | more))  # type: ignore[arg-type]


def test_text() -> None:
    lines = render(table(), "text").splitlines()
    assert lines[0].split() == [
        "optimizer",
        "digits/convnet",
        "s/epoch",
        "cifar10/resnet18",
        "s/epoch",
    ]
    assert lines[2].split("  ")[0].strip() == "adamw lr=0.01"
    assert "93.21 ± 0.15 (3/3)" in lines[2]
    assert " 1.235 " in lines[2]
    assert "50.00 (1/3)" in lines[2]
    assert lines[2].endswith(" 123.5")
    assert "* 94.00 ± 1.00 (2/3, 1 diverged)" in lines[3]
    assert "– (0/3, 2 diverged)" in lines[3]
    assert lines[4].split() == ["sgd", "[a|b]", "–", "(0/3)", "–", "–", "(0/1)", "–"]
    assert lines[5] == ""
    assert lines[6].startswith("* best mean of its column")
    assert lines[7:] == ["What it shows.", "2 of 3 runs used."]


def test_markdown() -> None:
    lines = render(table(), "markdown").splitlines()
    assert lines[0] == "| optimizer | digits/convnet | s/epoch | cifar10/resnet18 | s/epoch |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: |"
    assert lines[2] == "| adamw lr=0.01 | 93.21 ± 0.15 (3/3) | 1.235 | 50.00 (1/3) | 123.5 |"
    assert lines[3] == (
        "| muon | **94.00 ± 1.00** (2/3, 1 diverged) | 12.0 | – (0/3, 2 diverged) | – |"
    )
    assert lines[4] == r"| sgd [a\|b] | – (0/3) | – | – (0/1) | – |"
    assert lines[6].startswith("- **Bold**: best mean of its column")
    assert lines[7:] == ["- What it shows.", "- 2 of 3 runs used."]


HOSTILE = "<script>x</script> [a](javascript:b) ![](http://c) `d` e|f"


@pytest.mark.parametrize("form", ["markdown", "html"])
def test_a_runs_words_are_words_in_a_page(form: Any) -> None:
    found = render(
        table(rows=(HOSTILE, "muon", "sgd"), columns=(HOSTILE, "b/c"), notes=(HOSTILE,)), form,
        ids=True,
    )  # fmt: skip
    assert found.count("&lt;script") >= 3
    assert "<script" not in found
    assert "<img" not in found
    if form == "markdown":
        assert "](" not in found
        widths = {line.replace(r"\|", "").count("|") for line in found.splitlines()[:5]}
        assert widths == {6}, "a cell ended early"
        assert r"\`d\`" in found


def test_csv_is_tidy_and_unrounded() -> None:
    rows = list(csv.DictReader(io.StringIO(render(table(), "csv"))))
    assert len(rows) == 6
    first = {
        "row": "adamw lr=0.01",
        "column": "digits/convnet",
        "metric": "test/accuracy",
        "mean": "0.93214",
        "std": "0.00154",
        "n": "3",
        "expected_n": "3",
        "diverged": "0",
        "seconds_per_epoch": "1.23456",
        "run_ids": "a;b;c",
    }
    later = [
        "iqm", "interval_low", "interval_high", "baseline", "difference", "difference_low",
        "difference_high", "pairs", "p", "adjusted_p", "equivalence_p", "verdict", "registered",
        "seeds_needed", "reached",
    ]  # fmt: skip
    assert rows[0] == first | dict.fromkeys(later, "")
    assert list(rows[0]) == [*first, *later]
    assert (rows[1]["std"], rows[1]["n"], rows[1]["run_ids"]) == ("", "1", "d")
    assert (rows[3]["mean"], rows[3]["n"], rows[3]["diverged"]) == ("", "0", "2")


@pytest.mark.parametrize(
    ("mean", "std", "shown"),
    [
        (0.123456, 0.01, "0.1235 ± 0.0100"),
        (2810.0, 0.0, "2810.0000 ± 0.0000"),
        (0.0, 0.0, "0.0000 ± 0.0000"),
        (1.5e-5, 1e-6, "1.500e-05 ± 1.000e-06"),
        (-3e7, 1.0, "-3.000e+07 ± 1.000e+00"),
    ],
)
def test_other_metrics_are_not_percent(mean: float, std: float, shown: str) -> None:
    one = table("train/loss", rows=("x",), columns=("c",), cells=((cell(mean, std, 2),),))
    assert f"| {shown} (2/3) |" in render(one, "markdown")
    assert f" {shown} (2/3) " in render(one, "text")


def test_nothing_is_said_of_the_best_where_none_is_marked() -> None:
    plain = table(cells=((cell(0.5, 0.1, 3), cell()),), rows=("adamw",))
    assert "best" not in render(plain, "text") + render(plain, "markdown")


BETTER = Comparison(0.0123, Interval(0.001, 0.0236), 8, 0.01, 0.02, "better")
ALONE = Comparison(-0.5, Interval(NAN, NAN), 1, NAN, NAN, "undecided")
NOBODY = Comparison(NAN, Interval(NAN, NAN), 0, NAN, NAN, "undecided")


def compared(metric: str = "test/accuracy") -> Table:
    full = cell(0.93, 0.01, 3, interval=Interval(0.91, 0.95), comparisons=(BETTER,), needed=7)
    cells = (
        (full, cell(0.5, NAN, 1, comparisons=(ALONE,))),
        (cell(0.94, 0.01, 2, best=True, iqm=0.9, comparisons=(None,)), cell(comparisons=(NOBODY,))),
    )
    return table(
        metric, rows=("a", "b_1"), cells=cells, baselines=("b_1",), resolve=0.002, spread="interval"
    )


def test_differences_verdicts_and_seeds_beside_the_numbers() -> None:
    lines = render(compared(), "markdown").splitlines()
    assert lines[0].startswith("| optimizer | digits/convnet | s/epoch | vs b_1 | seeds for 0.20 |")
    first = "| a | 93.00 [91.00, 95.00] (3/3) | – | +1.23 [+0.10, +2.36] better | 7 |"
    assert lines[2] == f"{first} 50.00 (1/3) | – | -50.00 (1 pair) | – |"
    assert lines[3].endswith("| – | – | – (0/3) | – | – | – |")
    plain = render(compared("train/loss"), "markdown")
    assert "+0.0123 [+0.0010, +0.0236] better" in plain
    (first_cell, *_) = csv.DictReader(io.StringIO(render(compared(), "csv")))
    wanted = {"baseline": "b_1", "difference": "0.0123", "difference_low": "0.001", "pairs": "8",
              "adjusted_p": "0.02", "equivalence_p": "", "verdict": "better", "seeds_needed": "7",
              "interval_high": "0.95"}  # fmt: skip
    assert {key: first_cell[key] for key in wanted} == wanted
    alone = list(csv.DictReader(io.StringIO(render(compared(), "csv"))))[1]
    assert (alone["pairs"], alone["verdict"], alone["p"]) == ("1", "", "")


def test_the_interquartile_mean_is_shown_where_it_is_asked_for() -> None:
    one = table(
        cells=((cell(0.5, 0.1, 4, iqm=0.25, best=True),),), rows=("x",), columns=("c",),
        statistic="iqm",
    )  # fmt: skip
    assert "**25.00 ± 10.00** (4/3)" in render(one, "markdown")
    assert "best interquartile mean of its column" in render(one, "markdown")


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "html"])
def test_runs_are_named_on_demand(form: Any) -> None:
    assert "digits/convnet: a, b, c" not in render(table(), form)
    named = render(table(), form, ids=True)
    assert "adamw lr=0.01, digits/convnet: a, b, c" in named
    assert "cifar10/resnet18: none" in named


@pytest.mark.parametrize("difference", [-1e-9, -0.0, 0.0, 1e-9])
def test_no_difference_has_no_sign_but_plus(difference: float) -> None:
    same = Comparison(difference, Interval(-0.001, 0.001), 8, 0.9, 0.9, "undecided")
    one = table(rows=("a",), columns=("c",), cells=((cell(0.5, 0.1, 3, comparisons=(same,)),),),
                baselines=("b",))  # fmt: skip
    assert "| +0.00 [-0.10, +0.10] undecided |" in render(one, "markdown")


def test_an_end_just_below_nothing_keeps_its_sign() -> None:
    below = Comparison(-0.001, Interval(-0.002, -2e-5), 8, 0.04, 0.4, "undecided")
    one = table(rows=("a",), columns=("c",), cells=((cell(0.5, 0.1, 3, comparisons=(below,)),),),
                baselines=("b",))  # fmt: skip
    assert "| -0.10 [-0.20, -0.00] undecided |" in render(one, "markdown")


def test_an_interval_ends_where_an_accuracy_can() -> None:
    wide = cell(0.99, 0.01, 3, interval=Interval(0.96, 1.02))
    one = table(rows=("a",), columns=("c",), cells=((wide,),), spread="interval")
    assert "99.00 [96.00, 100.00]" in render(one, "markdown")
