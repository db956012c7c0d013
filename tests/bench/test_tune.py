"""Tuning, with real runs of a second each: equal budgets, resumed, decided by the runs alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import config, tune
from bench.data.base import Data
from bench.errors import RunsFailedError, UserError
from bench.files import read_json, write_json
from bench.run_folder import RunFolder
from bench.setup import Setup

SPACE = (
    "{sgd: {optimizer.lr: {low: 0.001, high: 0.1}}, adamw: {optimizer.lr: {low: 0.01, high: 1}}}"
)
TUNING = f"{{trials: 5, extension: 2, epochs: 1, seeds: [1000, 1001], space: {SPACE}}}"
STUDY = f"""# @package _global_
defaults:
  - override /model: mlp
  - override /tracker: none
sweep: quick
model: {{hidden: [8]}}
trainer: {{epochs: 2, batch_size: 400, threads: 1, device: cpu, progress: none}}
study: {{tuning: {TUNING}}}
hydra:
  mode: MULTIRUN
  sweeper:
    params: {{optimizer: "sgd,adamw", seed: "0,1"}}
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``study(old, new, ...)`` writes a study, changed so; the words that tune it in tmp_path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "extra" / "sweeps").mkdir(parents=True)

    def write(*changes: str) -> list[str]:
        text = STUDY
        for old, new in zip(changes[::2], changes[1::2], strict=True):
            assert text.count(old) == 1
            text = text.replace(old, new)
        (tmp_path / "extra" / "sweeps" / "quick.yaml").write_text(text)
        path = f"hydra.searchpath=[file://{tmp_path}/extra,file://${{bench_home:}}]"
        return [path, "+sweeps=quick", f"tuned={tmp_path / 'tuned'}", f"runs_dir={tmp_path}/runs"]

    return write


def written(tmp_path: Path) -> dict[str, dict[str, Any]]:
    files = (tmp_path / "tuned" / "mlp_digits").glob("*.yaml")
    return {file.stem: yaml.safe_load(file.read_text()) for file in files}


def folders(tmp_path: Path) -> list[RunFolder]:
    return [RunFolder(path.parent) for path in sorted((tmp_path / "runs").glob("*/config.json"))]


def test_every_optimizer_spends_the_same_and_the_report_uses_what_was_found(
    study: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = study()
    tune.tune(words)
    found = written(tmp_path)
    assert set(found) == {"sgd", "adamw"}
    runs = {folder.path.name: folder for folder in folders(tmp_path)}
    assert len(runs) == 2 * 5 * 2
    for name, content in found.items():
        provenance = content["provenance"]
        assert provenance["trials"] == len(provenance["tried"]) == 5
        assert provenance["seeds"] == [1000, 1001]
        assert (provenance["epochs"], provenance["study"]) == (1, "quick")
        assert provenance["transferred"] == {"to_epochs": 2}
        for trial in provenance["tried"]:
            own = [runs.pop(run_id) for run_id in trial["runs"]]
            assert [run.config["seed"] for run in own] == [1000, 1001]
            assert {run.config["sweep"] for run in own} == {"quick_tune"}
            assert {run.config["names"]["optimizer"] for run in own} == {name}
            assert {run.config["optimizer"]["lr"] for run in own} == {trial["optimizer.lr"]}
            mean = sum(run.summary["val/accuracy"] for run in own) / 2
            assert trial["score"] == pytest.approx(mean, abs=1e-12)
        best = max(provenance["tried"], key=lambda trial: trial["score"])
        assert content["settings"] == {"optimizer.lr": best["optimizer.lr"]}
        assert provenance["score"] == best["score"]
        report = config.load([*words, f"optimizer={name}", "seed=0"])
        assert report.optimizer["lr"] == best["optimizer.lr"]
        assert report.trainer.epochs == 2
    assert not runs
    table = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in table] == ["optimizer", "sgd", "adamw"]


@pytest.mark.slow
def test_the_same_command_again_trains_only_what_is_missing(
    study: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*study(), "optimizer=sgd"]
    tune.tune(words)
    whole = {path: path.read_bytes() for path in (tmp_path / "tuned").rglob("*.yaml")}
    kept = {folder.path: folder.path.stat().st_mtime_ns for folder in folders(tmp_path)}
    capsys.readouterr()
    tune.tune(words)
    assert "planned" not in capsys.readouterr().out
    assert kept == {folder.path: folder.path.stat().st_mtime_ns for folder in folders(tmp_path)}
    # Interrupted anywhere, it goes on to the same trials; folders need no checkpoints for that.
    content = written(tmp_path)["sgd"]["provenance"]
    for trial in content["tried"][1:4:2]:
        shutil.rmtree(tmp_path / "runs" / trial["runs"][1])
    for checkpoint in (tmp_path / "runs").rglob("*.pt"):
        checkpoint.unlink()
    shutil.rmtree(tmp_path / "tuned")
    tune.tune(words)
    assert len(folders(tmp_path)) == len(kept)
    assert {path: path.read_bytes() for path in whole} == whole


def test_a_diverged_trial_counts_and_has_the_worst_score(
    study: Callable[..., list[str]], tmp_path: Path
) -> None:
    words = [*study("low: 0.001, high: 0.1", "low: 0.1, high: 1.0e+30"), "optimizer=sgd"]
    tune.tune(words)
    content = written(tmp_path)["sgd"]
    provenance = content["provenance"]
    worst = [trial for trial in provenance["tried"] if trial["score"] is None]
    assert provenance["trials"] == 5
    assert provenance["diverged"] == len(worst) >= 1
    assert content["settings"]["optimizer.lr"] not in [trial["optimizer.lr"] for trial in worst]


@pytest.mark.slow
def test_where_all_diverge_nothing_is_written(
    study: Callable[..., list[str]], tmp_path: Path
) -> None:
    words = study("low: 0.001, high: 0.1", "low: 1.0e+28, high: 1.0e+30", "trials: 5", "trials: 4")
    with pytest.raises(RunsFailedError, match=r"sgd \(mlp, digits\): every trial diverged"):
        tune.tune([*words, "study.tuning.seeds=[1000]"])
    assert set(written(tmp_path)) == {"adamw"}


@pytest.mark.slow
def test_a_failed_trial_stops_its_optimizer_alone(
    study: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import train

    real = train.build_parts

    def failing(setup: Setup, data: Data) -> Any:
        run = setup.config
        if run.names["optimizer"] == "sgd" and run.optimizer["lr"] == 0.01:
            raise RuntimeError("boom")
        return real(setup, data)

    words = [*study(), "study.tuning.seeds=[1000]"]
    with monkeypatch.context() as patch:
        patch.setattr(train, "build_parts", failing)
        with pytest.raises(RunsFailedError, match=r"1 of 3 runs failed:\n.*RuntimeError: boom"):
            tune.tune(words)
    assert set(written(tmp_path)) == {"adamw"}
    tune.tune(words)
    assert set(written(tmp_path)) == {"adamw", "sgd"}
    assert len(folders(tmp_path)) == 10


def test_loss_counts_downwards(study: Callable[..., list[str]], tmp_path: Path) -> None:
    words = [*study("trials: 5", "metric: val/loss, trials: 5"), "optimizer=sgd"]
    tune.tune([*words, "study.tuning.seeds=[1000]"])
    provenance = written(tmp_path)["sgd"]["provenance"]
    assert provenance["score"] == min(trial["score"] for trial in provenance["tried"])


def test_the_decision_is_read_from_the_runs(
    study: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Not from memory: another result in a run folder is another winner."""
    words = [*study(), "optimizer=sgd", "study.tuning.seeds=[1000]", "study.tuning.extension=0"]
    words += ["study.tuning.trials=3"]
    tune.tune(words)
    tried = written(tmp_path)["sgd"]["provenance"]["tried"]
    summary = tmp_path / "runs" / tried[0]["runs"][0] / "summary.json"
    write_json(summary, {**(read_json(summary) or {}), "val/accuracy": 1.0})
    tune.tune(words)
    content = written(tmp_path)["sgd"]
    assert content["settings"] == {"optimizer.lr": 0.001}
    assert content["provenance"]["at"] == "low edge"


def test_out_of_the_box_rate_and_decay_are_narrowed_and_the_adamw_part_follows(
    study: Callable[..., list[str]], tmp_path: Path
) -> None:
    """With a space declared for all, by smaller runs than the report's."""
    tuning = "{trials: 5, at: [trainer.epochs=1, trainer.batch_size=600], known: [A is good.]"
    words = [*study(TUNING, f"{tuning}, seeds: [1000]}}"), "optimizer=muon"]
    tune.tune(words)
    content = written(tmp_path)["muon"]
    settings, provenance = content["settings"], content["provenance"]
    assert set(settings) == {"optimizer.lr", "optimizer.weight_decay", "optimizer.adamw_lr"}
    assert provenance["tied"] == {"optimizer.adamw_lr": {"key": "optimizer.lr", "ratio": 0.1}}
    assert provenance["known"] == ["A is good."]
    assert provenance["transferred"] == {
        "to_epochs": 2,
        "at": ["trainer.epochs=1", "trainer.batch_size=600"],
    }
    assert (provenance["epochs"], provenance["batch_size"]) == (1, 600)
    assert "extension" not in provenance
    runs = folders(tmp_path)
    assert len(runs) == provenance["trials"] == 5
    for run in runs:
        own = run.config["optimizer"]
        assert own["adamw_lr"] == pytest.approx(own["lr"] / 10, rel=1e-3)
        assert (run.config["trainer"]["epochs"], run.config["trainer"]["batch_size"]) == (1, 600)
    report = config.load([*words, "seed=0"])
    assert report.optimizer["adamw_lr"] == settings["optimizer.adamw_lr"]
    assert (report.trainer.epochs, report.trainer.batch_size) == (2, 400)
    tune.tune(words)  # it is done
    assert len(folders(tmp_path)) == 5


@pytest.mark.parametrize(
    ("changes", "more", "words"),
    [
        (["seeds: [1000, 1001]", "seeds: [999]"], [], "study.tuning.seeds.0: .*1000"),
        (["seeds: [1000, 1001]", "seeds: [1000, 1000]"], [], "names a seed twice"),
        (['seed: "0,1"', 'seed: "0,1000"'], [], "seed: 1000 is among the report's"),
        (["trials: 5", "trial: 5"], [], "study.tuning.trial"),
        (["low: 0.001, high: 0.1", "low: 3, high: 0.1"], [], "must be below"),
        (["low: 0.001, high: 0.1", "low: 3, hihg: 0.1"], [], "study.tuning.space.sgd"),
        ([], ["optimizer=muon"], "nothing for optimizer=muon"),
        ([], ["optimizer.lr=0.1"], "optimizer.lr: it is to be searched for"),
        ([], ["optimizer.weight_decay=0,0.1"], "several variants"),
        ([], ["study.tuning.extension=4"], "at least 2 trials"),
        ([], ["study.tuning=null"], "study.tuning"),
        ([TUNING, "{trials: 4}"], ["optimizer=muon", "optimizer.adamw_lr=1"], "it follows"),
        ([TUNING, "{trials: 4, at: [trainer.epoch=1]}"], [], r"trainer\.epoch"),
        ([], ["sweep=null"], "no search is declared"),
        (["optimizer.lr: {low: 0.001", "optimizer.rate: {low: 0.001"], [], "optimizer.rate"),
    ],
)
def test_mistakes_are_one_line_and_start_nothing(
    study: Callable[..., list[str]],
    tmp_path: Path,
    changes: list[str],
    more: list[str],
    words: str,
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        tune.tune([*study(*changes), *more])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("runs/*"))
    assert not (tmp_path / "tuned").exists()
