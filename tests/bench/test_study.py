"""The steps of a study: which commands, with which words; and one study from end to end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from bench import files, study
from bench import study as steps
from bench.errors import RunsFailedError, UserError

STUDIES = sorted(file.stem for file in (files.home() / "sweeps").glob("study_*.yaml"))


def test_the_small_study_is_tuned_reported_and_tabled() -> None:
    words = ["+sweeps=study_a_small", "tracker=none", "runs_dir=r"]
    assert study.commands(words) == [
        ["tune", *words],
        ["train", "-m", *words, "tuned=true"],
        ["tables", "source=r", "sweep=study_a_small", "baseline=adamw", "spread=interval"],
    ]


def test_the_table_of_a_registered_study_is_by_its_outcome() -> None:
    *_, table = study.commands(["+sweeps=demo_study", "runs_dir=r", "tuned=t"])
    assert table == ["tables", "source=r", "sweep=demo_study", "metric=test/loss",
                     "baseline=adamw", "spread=interval"]  # fmt: skip


@pytest.mark.parametrize(
    "words", [["optimizer=sgd,muon"], ["optimizer=adamw"], ["trainer.batch_size=32,64"]]
)
def test_without_a_row_of_adamw_nothing_is_compared_with_it(words: Sequence[str]) -> None:
    *_, table = study.commands(["+sweeps=study_a_small", *words])
    assert table == ["tables", "source=runs", "sweep=study_a_small"]


def test_exponents_are_measured_first_on_a_seed_of_no_report() -> None:
    words = ["+sweeps=study_a_8", "trainer.device=cpu", "optimizer=adamw,soap", "tuned=mine"]
    first, tune, report, _ = study.commands(words)
    assert first[:4] == ["train", "-m", "+sweeps=study_a_8", "trainer.device=cpu"]
    assert [word for word in first if word.startswith(("optimizer", "seed", "sweep", "tuned"))] == [
        "optimizer=adamw",
        "seed=1999",
        "sweep=study_a_8_exponents",
    ]
    (exponents,) = [word for word in tune if word.startswith("exponents=")]
    assert Path(exponents).match("fashion_mnist-resnet18-adamw-s1999-*/exponents.parquet")
    assert tune == ["tune", *words, exponents]
    assert report == ["train", "-m", *words, exponents]


def test_exponents_that_are_given_are_not_measured_again() -> None:
    words = ["+sweeps=study_a_8", "trainer.device=cpu", "exponents=e.parquet"]
    assert [command[0] for command in study.commands(words)] == [
        "tune",
        "train",
        "tables",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["+sweeps=digits"], "no study"),
        ([], "no study"),
        (["+sweeps=study_a_8", "study.exponents=[seed=1,optimizer=adamw]"], "cannot|3|1"),
        (["+sweeps=study_c", "trainer.device=cpu", "study.exponents=['seed=7']"], "it is 5 runs"),
        (["+sweeps=study_c", "trainer.device=cpu", "study.exponents=['seed=-7']"], "it is 5|seed"),
    ],
)
def test_mistakes(words: Sequence[str], says: str) -> None:
    with pytest.raises(Exception, match=says) as caught:
        study.commands(words)
    if "+sweeps=study_a_8" not in words:
        assert isinstance(caught.value, UserError)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_searches_for_all_or_for_none_of_its_optimizers(name: str) -> None:
    content = yaml.safe_load((files.home() / "sweeps" / f"{name}.yaml").read_text())
    tuning = (content.get("study") or {}).get("tuning")
    if tuning is None or tuning.get("space", "default") == "default":  # as declared for all
        return
    grid = content["hydra"]["sweeper"]["params"]["optimizer"].replace(" ", "").split(",")
    assert list(tuning["space"]) == grid
    widths = {
        its["high"] / its["low"] for space in tuning["space"].values() for its in space.values()
    }
    assert max(widths) <= 1.6 * min(widths)  # of about one width for all


def test_a_step_that_fails_ends_the_job(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunsFailedError, match=r"the job stopped: tune ended with status 2"):
        steps.carry_out([["tune", "sweep=null"], ["tune", "--help"]], "the job")
    out, err = capfd.readouterr()
    assert " tune sweep=null" in out
    assert "--help" not in out
    assert err.startswith("error: sweep=None")


@pytest.mark.slow
def test_the_small_study_end_to_end(tmp_path: Path) -> None:
    words = ["+sweeps=study_a_small", "tracker=none", "optimizer=sgd,adamw", "trainer.epochs=1"]
    words += ["study.tuning.epochs=1", "model.width=4", f"tuned={tmp_path}/tuned"]
    words += [f"runs_dir={tmp_path}/runs"]
    made = subprocess.run(
        [sys.executable, "-m", "bench.study", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert "6 of 6 runs used" in made.stdout
    assert "vs adamw: mean difference paired by seed [95 % interval, not corrected]" in made.stdout
    seeds = {path.name.split("-s")[-1].split("-")[0] for path in (tmp_path / "runs").glob("*-s*")}
    assert seeds == {"0", "1", "2", "1000"}
    assert {file.stem for file in (tmp_path / "tuned").rglob("*.yaml")} == {"sgd", "adamw"}
