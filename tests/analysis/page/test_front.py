"""What README.md says of the subject, from every study, horizon and outcome."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_runs

from analysis.judge.registered import plan_of
from analysis.page import front
from analysis.page.front import Shown
from analysis.page.study import Header, Plan, Study, studies
from analysis.page.table import results
from analysis.run import archive
from bench import register
from bench.registration import RegisteredPlan
from bench.tuning.spec import Study as SweepStudy

ROOT = Path(front.__file__).parents[2]
ADAMW = [0.900, 0.901, 0.902, 0.903, 0.899, 0.9015, 0.8985, 0.9005]
BETTER = [value + 0.02 + 0.0001 * k for k, value in enumerate(ADAMW)]
MIXED = [value + (0.01 if k % 2 else -0.01) for k, value in enumerate(ADAMW)]
SWEEP = """# @package _global_
defaults:
  - override /model: convnet
sweep: study_f
trainer: {epochs: 20}
study:
  part_of: study (f)
  registered:
    outcome: test/accuracy
    primary: [[spectral_newton, adamw]]
hydra:
  mode: MULTIRUN
  sweeper:
    params: {optimizer: "adamw,muon,spectral_newton", seed: "0,1,2,3,4,5,6,7"}
"""
Numbers = Mapping[str, Sequence[float]]


@pytest.fixture
def made(runs: Any, tmp_path: Path) -> Any:
    """Returns a study of accuracies, and of losses where they are given."""

    def make(
        name: str, accuracies: Numbers, losses: Numbers | None = None, *,
        part_of: str = "study (x)", epochs: int = 8, first: int = 0, fresh: bool = False,
        looks: int = 1, model: str = "convnet", started: str | None = None,
    ) -> Shown:  # fmt: skip
        root = tmp_path / f"{name}{first}"
        for optimizer, values in accuracies.items():
            for k, value in enumerate(values):
                config = runs.config(
                    optimizer, first + k, sweep=name, trainer__epochs=epochs, names__model=model
                )
                more = {"test/loss": losses[optimizer][k]} if losses else {}
                folder = study_runs.write(runs, root, config, value, **more)
                path = folder / "provenance.json"
                (attempt,) = json.loads(path.read_text())["attempts"]
                attempt |= {"started": started} if started else {}
                path.write_text(json.dumps({"attempts": [attempt]}))
        path = tmp_path / f"{name}{first}.parquet"
        archive.write(path, archive.gather(root))
        shutil.rmtree(root)
        plan = Plan(study=SweepStudy(part_of=part_of, looks=looks))
        study = Study(name, Header("", ()), path, plan)
        return Shown(study, study.runs, fresh)

    return make


def trio(own: Sequence[float]) -> dict[str, Sequence[float]]:
    return {"adamw": ADAMW, "muon": BETTER[::-1], "spectral_newton": own}


def test_lengths_and_outcomes_that_disagree_are_joined_by_but(made: Any) -> None:
    losses = {"adamw": [0.2] * 8, "muon": [0.3] * 8, "spectral_newton": BETTER}
    short = made("study_x_8", trio(BETTER), losses)
    long = made("study_x_30", trio(MIXED), losses, epochs=30)
    lines = front.lines([short, long])
    assert [(one.question, one.place, one.fresh) for one in lines] == [
        ("study (x)", "convnet / digits", False)
    ]
    text = front.text(lines)
    gain = 100 * np.mean(np.subtract(BETTER, ADAMW))
    worse = np.mean(np.subtract(BETTER, 0.2))
    assert (
        f"against `adamw` by test/accuracy better at 8 epochs ({gain:+.2f}) but undecided at 30"
        f" epochs (+0.00), but by test/loss worse at 8 and 30 epochs ({worse:+.3f}, {worse:+.3f});"
        " against `muon` by test/accuracy undecided at 8 epochs ("
    ) in text
    assert text.startswith("Verdicts on `spectral_newton`, all found afterwards (")


def test_outcomes_that_agree_have_no_but(made: Any) -> None:
    losses = {"adamw": BETTER, "muon": BETTER, "spectral_newton": ADAMW}
    text = front.text(front.lines([made("study_x", trio(BETTER), losses)]))
    assert re.search(r"by test/accuracy better at 8 epochs \(\S+\), by test/loss better at 8", text)
    (to_adamw, _) = text.split("; against `muon`")
    assert "but" not in to_adamw


def test_too_few_seeds_are_said_with_what_was_seen(made: Any) -> None:
    short = made("study_x_8", trio(BETTER))
    five = {name: values[:5] for name, values in trio(BETTER).items()}
    long = made("study_x_30", five, epochs=30)
    text = front.text(front.lines([short, long]))
    assert "at 8 and 30" not in text
    assert "At 30 epochs seeds 0-4 are too few for any verdict (by test/accuracy +2.02" in text
    few = front.lines([long])
    assert front.text(few).splitlines()[2:] == [
        "- Too few seeds for any verdict: study (x), convnet / digits (30 epochs, seeds 0-4)."
    ]
    looked = made("study_x_8", trio(BETTER), looks=7)  # 7 * 2 / 2^8 > 0.05
    assert "Too few seeds" in front.text(front.lines([looked]))


def test_the_order_is_that_of_the_studies_and_none_is_left_out(made: Any) -> None:
    """Never the first by name: what counts is who compares the subject."""
    given = [
        made("study_a", {"spectral_newton": ADAMW}),
        made("study_b", trio(BETTER), part_of="study (b)"),
        made("study_c", trio(BETTER), part_of="study (c)"),
        made("study_d", trio(BETTER), part_of="study (b)", model="vgg11"),
        made("study_e", {"adamw": ADAMW, "muon": BETTER}),
    ]
    found = [(one.question, one.place) for one in front.lines(given)]
    assert found == [
        ("study (b)", "convnet / digits"), ("study (c)", "convnet / digits"),
        ("study (b)", "vgg11 / digits"),
    ]  # fmt: skip
    assert front.lines([given[0], given[4]]) == []
    assert front.text([]) == ""


def test_fresh_seeds_stand_below_their_study_and_are_seen_once(made: Any) -> None:
    first = made("study_x", trio(MIXED), looks=7)
    other = made("study_y", trio(MIXED), part_of="study (y)")
    fresh = made("study_x", trio(BETTER), first=20, fresh=True, looks=7)
    lines = front.lines([first, other, fresh])
    assert [(one.question, one.fresh) for one in lines] == [
        ("study (x)", False), ("study (x)", True), ("study (y)", False)
    ]  # fmt: skip
    text = front.text(lines)
    assert "- The same, fresh seeds (8 epochs, seeds 20-27): against `adamw` by test/acc" in text
    assert "better" in text  # its looks were at the first seeds
    again = made("study_x", trio(BETTER), first=4, fresh=True)
    with pytest.raises(ValueError, match=r"x4\.parquet: seed 4 is in .*x0\.parquet too") as caught:
        front.lines([first, again])
    assert "\n" not in str(caught.value)


def test_a_registered_question_comes_first(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweeps").mkdir()
    Path("sweeps/study_f.yaml").write_text(SWEEP)
    search = f"hydra.searchpath=[file://{tmp_path}]"
    register.register([search, "+sweeps=study_f"])
    # As registrations of before, without the configs, which these made-up runs do not have.
    path = Path("sweeps/registered/study_f.json")
    content = json.loads(path.read_text())
    del content["plan"]["configs"]
    content["hash"] = RegisteredPlan.model_validate(content["plan"]).hash
    path.write_text(json.dumps(content))
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    given = [
        made("study_b", trio(BETTER)),
        made("study_f", trio(BETTER), part_of="study (f)", epochs=20, started=later),
    ]
    assert [one.question for one in front.lines(given[:1])] == ["study (x)"]
    lines = front.lines(given)
    assert [one.question for one in lines] == ["study (f)", "study (x)"]
    text = front.text(lines)
    assert "by test/accuracy better at 20 epochs (+2.04; registered, primary)" in text
    assert "**study (x), convnet / digits** (8 epochs, seeds 0-7; found afterwards): ag" in text
    assert text.startswith("Verdicts on `spectral_newton` (differences")
    assert "by test/loss undecided at 20 epochs (+0.000; found afterwards)" in text
    early = made("study_f", trio(BETTER), epochs=20, part_of="study (f)",
                 started="2020-01-01T00:00:00+00:00")  # fmt: skip
    lines = front.lines([given[0], early])  # not as registered
    assert [one.question for one in lines] == ["study (x)", "study (f)"]


def test_the_figure_shows_every_difference(made: Any) -> None:
    lines = front.lines([
        made("study_x_8", trio(BETTER), trio(ADAMW)),
        made("study_x_30", trio(MIXED), trio(ADAMW), epochs=30),
        made("study_x_8", trio(BETTER), trio(ADAMW), first=20, fresh=True),
        made("study_y", trio(BETTER), part_of="study (y)", model="vgg11"),
    ])  # fmt: skip
    figure = front.drawn(lines)
    axes = figure.axes
    assert len(axes) == 4  # two places, two outcomes
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names == ["8 epochs, seeds 0-7", "30 epochs, seeds 0-7", "8 epochs, fresh seeds 20-27"]
    dots = [line for line in axes[0].lines if line.get_marker() == "o"]
    shown = [float(np.asarray(dot.get_xdata())[0]) for dot in dots]
    expected = [
        100 * one.comparison.difference
        for line in lines[:2] for one in line.verdicts if one.outcome == "test/accuracy"
    ]  # fmt: skip
    assert shown == expected and len(shown) == 6
    full = [dot.get_markerfacecolor() == dot.get_color() for dot in dots]
    decided = [
        one.comparison.verdict != "undecided"
        for line in lines[:2] for one in line.verdicts if one.outcome == "test/accuracy"
    ]  # fmt: skip
    assert full == decided and len(set(full)) == 2
    low, high = axes[1].get_xlim()
    assert low > high  # of a loss the better is to the right too


def test_the_front_says_what_the_sections_of_the_page_say() -> None:
    """The committed archives: same family, same verdicts."""
    every = studies(ROOT / "results", ROOT / "sweeps")
    named = [one for one in every if one.archive and one.name in ("study_a_8", "study_c")]
    lines = front.lines([Shown(one, one.runs) for one in named])
    shown = {
        (horizon.study, one.baseline): one.comparison
        for line in lines for horizon in line.horizons for one in horizon.verdicts
        if one.outcome == line.outcomes[0]
    }  # fmt: skip
    assert len(shown) == 4
    for study in named:
        judging = partial(plan_of, study.name, study=study.planned.study)
        (found,) = results(study.runs, {}, None, judging)
        (row,) = [one for one in found.rows if one.label == "spectral_newton"]
        for baseline, comparison in row.against.items():
            assert repr(shown[study.name, baseline]) == repr(comparison)  # NaN is not itself
