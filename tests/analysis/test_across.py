"""``spectral-bench across``: runs of several studies, ranked over their tasks."""

from __future__ import annotations

import csv
import io
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import study_runs
from scipy.stats import rankdata

from analysis import across
from analysis.judge.across import performance_profile
from analysis.page.across import Across, Source, drawn
from analysis.page.across import across as across_of
from analysis.runs import load_history, load_runs
from bench.errors import UserError

ROOT = Path(across.__file__).parents[1]
NAMES = ["adamw", "muon", "spectral_newton"]
SHORT = {"adamw": [0.90, 0.92], "muon": [0.94, 0.95], "spectral_newton": [0.91, 0.93]}
LONG = {"adamw": [0.96, 0.97], "muon": [0.94, 0.95], "spectral_newton": [0.95, 0.93]}
OTHER = {"adamw": [0.5], "muon": [0.4], "spectral_newton": [0.7], "soap": [0.9], "sgd": [0.1]}


@pytest.fixture
def source(runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two horizons of one task and another task; tuning runs, and a map of settings."""
    monkeypatch.chdir(tmp_path)
    root = study_runs.study(runs, Path("runs"), SHORT, name="study_x_8")
    for optimizer, values in OTHER.items():
        for seed, value in enumerate(values):
            config = runs.config(optimizer, seed, sweep="study_y", names__model="vgg11")
            study_runs.write(runs, root, config, value, target=None, steps=40)
    for optimizer, values in LONG.items():
        for seed, value in enumerate(values):
            config = runs.config(optimizer, seed, sweep="study_x_30", trainer__epochs=30)
            steps = {"target/step": 100.0 * (1 + NAMES.index(optimizer)), "target/epoch": 3.0}
            study_runs.write(runs, root, config, value, **steps)
    for rate in (0.1, 0.2):
        config = runs.config("sgd", 0, sweep="study_x_8", optimizer__lr=rate)
        study_runs.write(runs, root, config, 0.99)
    study_runs.write(runs, root, runs.config("adamw", 0, sweep="study_z"), 0.9)
    return root


def cells(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_ranks_by_hand(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Short: muon, spectral_newton, adamw; long: adamw, muon, spectral_newton; a half each."""
    across.main(["source=runs", "format=csv"])
    rows = {row["optimizer"]: row for row in cells(capsys.readouterr().out)}
    assert [(name, row["mean rank"]) for name, row in rows.items()] == [
        ("spectral_newton", "1.75"), ("adamw", "2.00"), ("muon", "2.25"),
        ("soap", "1.00"), ("sgd", "4.00"),
    ]  # fmt: skip
    # study_z lacks others, study_x_8 has two settings of sgd, tuning runs are in no section
    assert [*rows["sgd"]][6:] == ["study_x_8", "study_x_30", "study_y"]
    assert [rows["adamw"][name] for name in ("study_x_8", "study_x_30", "study_y")] == list("312")
    assert [rows["sgd"][name] for name in ("of", "tasks", "study_x_8")] == ["4", "1 of 2", "–"]


def test_what_is_said_below_the_table(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    across.main(["source=runs"])
    printed = capsys.readouterr().out
    for words in (
        "study_x_8 (convnet / digits, 20 epochs, test/accuracy, 2 seeds) 25 %;",
        "study_x_30 (convnet / digits, 30 epochs, test/accuracy, 2 seeds) 25 %;",
        "study_y (vgg11 / digits, 20 epochs, test/accuracy, 1 seed) 50 %.",
        "study_z (convnet / digits) lacks muon and spectral_newton.",
        "several settings there: sgd in study_x_8 (convnet / digits).",
        "Found afterwards: none of these sections was registered.",
        "By test/loss in every section the mean ranks are: adamw 2.00, muon 2.00,",
    ):
        assert words in printed, words
    across.main(["source=runs"])
    assert capsys.readouterr().out == printed


def test_profiles_against_the_sections_own_numbers(source: Path) -> None:
    one = across_of([Source(load_runs("runs"))], NAMES)
    errors = [[1 - np.mean(study[name]) for study in (SHORT, LONG, OTHER)] for name in NAMES]
    expected = performance_profile(errors, one.quality.ratios, [0.25, 0.25, 0.5])
    assert one.quality.shares == pytest.approx(expected)
    assert one.target is not None and one.target.count == 2
    # study_x_8: 20 steps each; study_x_30: 100, 200 and 300
    for share, factor in zip(one.target.shares, (1, 2, 3), strict=True):
        assert share.tolist() == (0.5 + 0.5 * (one.target.ratios >= factor)).tolist()
    reason = "study_y (vgg11 / digits): 0 of 3 runs reach val/accuracy 0.5: fewer than half."
    assert one.notes[-1].endswith(reason)


def test_with_histories_the_target_is_the_first_methods_own_end(source: Path) -> None:
    """study_y: adamw ends at 0.49 after 40 steps; 0.7 is there after 10, 0.4 never."""
    runs = load_runs("runs")
    own = Source(runs[runs["sweep"] == "study_y"], partial(load_history, "runs"))
    target = across_of([own], NAMES).target
    assert target is not None
    adamw, muon, subject = target.shares
    assert adamw.tolist() == (target.ratios >= 4).tolist()
    assert not muon.any() and subject.all()


def test_a_diverged_run_is_worse_than_any_number(source: Path, runs: Any) -> None:
    config = runs.config("muon", 2, sweep="study_x_8", optimizer__lr=1e-2, tuned=True)
    study_runs.write(runs, Path("runs"), config, 0.0, state="diverged")
    both = [runs.config(name, 2, sweep="study_x_8", optimizer__lr=1e-2, tuned=True)
            for name in ("adamw", "spectral_newton")]  # fmt: skip
    for other in both:
        study_runs.write(runs, Path("runs"), other, 0.9)
    one = across_of([Source(load_runs("runs"))], NAMES)
    ranks = {each.method: each.by_section[0] for each in one.found.ranks}
    assert ranks == {"spectral_newton": 1, "adamw": 2, "muon": 3}


def test_frames_one_by_one_or_together_say_the_same(source: Path) -> None:
    runs = load_runs("runs")
    apart = [runs[runs["sweep"] == name] for name in ("study_y", "study_x_30", "study_x_8")]
    together = across_of([Source(runs[runs["sweep"] != "study_z"])], NAMES)
    assert across_of([Source(one) for one in apart], NAMES).found.ranks == together.found.ranks


def test_the_figure(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.svg", "b.svg"):
        across.main(["source=runs", f"figure=new/{name}"])
    assert Path("new/a.svg").read_bytes() == Path("new/b.svg").read_bytes()
    ranks, quality, target = drawn(across_of([Source(load_runs("runs"))], NAMES)).axes
    dots = [line for line in ranks.lines if line.get_marker() == "o"]
    assert [float(np.asarray(dot.get_xdata())[0]) for dot in dots] == [1.75, 2.0, 2.25]
    names = [label.get_text() for label in ranks.get_yticklabels()]
    assert names == ["spectral_newton", "adamw", "muon"]
    colours = [dot.get_color() for dot in dots]
    for axes in (quality, target):
        assert [line.get_color() for line in axes.lines] == colours


def test_without_times_to_a_target_there_is_one_profile(source: Path) -> None:
    runs = load_runs("runs")
    one = across_of([Source(runs[runs["sweep"] == "study_y"])], NAMES)
    assert one.target is None
    assert "Not in the profile of times to the target: study_y" in one.notes[-1]
    assert len(drawn(one).axes) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["source=runs", "optimizers=adamw,lion"], "no section has runs of adamw, lion"),
        (["source=runs", "optimizers=adamw,adamw"], "ranks need two methods or more"),
        (["source=runs", "figure=a.txt"], "figure=a.txt: name a .png, .svg, .pdf file"),
        (["source=runs", "measure=hours"], "measure"),
        (["source=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(source: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        across.main(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_committed_studies_by_another_way() -> None:
    """Ranks of plain means, of the three optimizers, in each section of the archives."""
    studies = {"study_a_small": "test/accuracy", "study_c": "test/loss",
               "study_a_8": "test/accuracy", "study_a_30": "test/accuracy"}  # fmt: skip
    sources, expected = [], []
    for name, metric in studies.items():
        path = ROOT / "results" / f"{name}.parquet"
        runs = load_runs(path)
        sources.append(Source(runs))
        of_report = runs[(runs["sweep"] == name) & runs["optimizer"].isin(NAMES)]
        of_report = of_report[of_report["seed"] < 1000]
        means: pd.Series[float] = of_report.groupby("optimizer")[metric].mean()
        expected.append(rankdata((-1 if metric == "test/accuracy" else 1) * means[NAMES]))
    one: Across = across_of(sources)
    assert [section.name for section in one.found.sections] == list(studies)
    for each in one.found.ranks:
        assert list(each.by_section) == [row[NAMES.index(each.method)] for row in expected]
        weighted = np.dot(np.array(expected)[:, NAMES.index(each.method)], [1, 1, 0.5, 0.5]) / 3
        assert math.isclose(each.rank, weighted)
