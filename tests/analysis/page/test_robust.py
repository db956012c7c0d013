"""The panels of the committed archives, and what stands of them in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from analysis.judge.registered import plan_of
from analysis.page import robust, verdict
from analysis.page.robust import Asked
from analysis.page.study import Study, studies, tuner
from analysis.page.table import Results, results

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def everyone() -> list[Study]:
    return studies(ROOT / "results", ROOT / "sweeps")


@pytest.fixture(scope="module")
def asked(everyone: list[Study]) -> Callable[[str], tuple[Study, Results, list[Asked]]]:
    def of(name: str) -> tuple[Study, Results, list[Asked]]:
        study = next(one for one in everyone if one.name == name)
        judging = partial(plan_of, name, study=study.planned.study)
        (found,) = results(study.runs, {}, study.planned.first, judging)
        tuning = tuner(study, everyone).tuning
        return study, found, robust.panels(found, study, tuning, everyone)

    return of


Made = Callable[[str], tuple[Study, Results, list[Asked]]]


def test_accuracy_and_loss_disagree_and_the_sentence_says_so(asked: Made) -> None:
    study, found, panels = asked("study_a_8")
    assert [(one.panel.method, one.panel.other) for one in panels] == [
        ("spectral_newton", "adamw"), ("spectral_newton", "muon"),
    ]  # fmt: skip
    panel = panels[0].panel
    assert panel.comparison.verdict == "better"
    (loss,) = [check for check in panel.checks if check.outcome == "test/loss"]
    runs = study.runs.pivot_table(index="seed", columns="optimizer", values="test/loss")
    mean = (runs["spectral_newton"] - runs["adamw"]).mean()
    assert loss.difference == pytest.approx(mean)
    assert (loss.verdict, panel.agreement(loss)) == ("worse", "opposite")
    at_30 = [check for check in panel.checks if check.kind == "horizon"]
    assert [check.name for check in at_30] == ["at 30 epochs (study_a_30)"]
    assert [panel.agreement(check) for check in at_30] == ["differs"]  # five seeds
    assert {check.name for check in panel.checks if check.kind == "seeds"} >= {
        "seeds 0-4", "seeds 5-9",
    }  # fmt: skip
    text = verdict.sentences(found, study, panels)
    assert "better than `adamw` (+0.31 [+0.19, +0.44] points, corrected p = 0.041;" in text
    assert ") but worse by test/loss (+0.0381)" in text
    assert "undecided at 30 epochs (study_a_30) (+0.17)" in text
    (first, *_) = verdict.short(found, panels)
    assert first.endswith("undecided against `muon`, but by test/loss worse than `adamw`")


def test_a_registered_study_is_asked_for_what_it_registered(asked: Made) -> None:
    study, found, panels = asked("study_f_8")
    assert [(one.panel.method, one.panel.other) for one in panels] == [
        ("spectral_newton", "muon"), ("spectral_newton", "adamw"),
    ]  # fmt: skip
    text = verdict.sentences(found, study, panels)
    assert "registered, primary) but worse by test/loss (+0.0284)" in text
    page = robust.section(panels)
    assert "`spectral_newton` against `adamw`: better by test/accuracy; difference" in page
    assert "with the choice of settings in it" in page
    tuned = panels[1].tuned
    assert tuned is not None
    low, high = panels[1].panel.comparison.interval
    assert tuned.interval.low < low < high < tuned.interval.high  # tuning adds to the noise
    settings = [check for check in panels[1].panel.checks if check.kind == "settings"]
    assert [check.name for check in settings] == [
        "at the worst setting beside spectral_newton's, by val/accuracy of the trials"
    ]


def test_a_study_without_the_subject_has_no_panel(asked: Made) -> None:
    _, _, panels = asked("study_e")
    assert panels == []
    assert not robust.section(panels)
