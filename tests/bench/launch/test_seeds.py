"""What plan says of its seeds before anything is spent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import files, sweep

ARCHIVE = files.home() / "results" / "study_a_8.parquet"
GPU = ["+sweeps=study_a_8", "trainer.device=cpu", "tracker=none", "exponents=null"]
PAIR = [*GPU, "optimizer=adamw,muon"]
REGISTERED = ["+study.registered.outcome=test/loss", "+study.registered.primary=[[muon,adamw]]",
              "+study.registered.margin=0.001"]  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    sweep.main(["plan", *words])
    return [line for line in capsys.readouterr().out.splitlines() if re.match(r"\d+ seeds? ", line)]


def archived() -> None:
    Path("results").mkdir()
    Path("results/any.parquet").symlink_to(ARCHIVE)


def test_too_few_seeds_cannot_give_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    few = [*PAIR, "study.looks=1", "seed=range(0,5)"]
    (line,) = said(capsys, *few)
    assert line == (
        "5 seeds cannot give a verdict: the least p is 2/2^5, 0.062; give 6 seeds or more"
    )
    (line,) = said(capsys, *PAIR, "study.looks=3", "seed=range(0,6)")
    assert line == (
        "6 seeds cannot give a verdict: the least p is 2/2^6, times 3 interim analyses, 0.094; "
        "give 7 seeds or more"
    )


def test_without_past_runs_the_smallest_difference_is_not_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (line,) = said(capsys, *PAIR)
    assert line == (
        "10 seeds of resnet18 on fashion_mnist: which difference they can show is not known; "
        "no past runs on fashion_mnist"
    )


def test_past_runs_say_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    archived()
    (line,) = said(capsys, *PAIR, "study.looks=1")
    found = re.fullmatch(
        r"10 seeds of resnet18 on fashion_mnist show a difference of ([\d.]+) points in "
        r"test/accuracy with 80 % power, 1 comparison \(Bonferroni\); standard deviation of paired "
        r"differences ([\d.]+) points in past runs of resnet18 on fashion_mnist, 8 epochs",
        line,
    )
    assert found is not None
    # 1.0 standard deviations of differences: a paired t-test of 10 seeds at 5 %.
    assert float(found[1]) == pytest.approx(1.0 * float(found[2]), rel=0.06)
    assert 0.1 < float(found[2]) < 0.4


def test_the_registered_outcome_and_margin_count(capsys: pytest.CaptureFixture[str]) -> None:
    archived()
    (line,) = said(capsys, *PAIR, *REGISTERED, "study.looks=1")
    assert " in test/loss with 80 % power, 1 primary comparison " in line
    assert "; the margin is 0.001; " in line
    assert "points" not in line


@pytest.mark.parametrize("words", [["optimizer=adamw"], ["optimizer=adamw", "seed=1"]])
def test_one_optimizer_is_compared_with_nothing(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert said(capsys, *GPU, *words) == []
