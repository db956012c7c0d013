"""tuned=true: each optimizer takes its own file, and what the user gives beats it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import config, files
from bench.errors import UserError
from bench.identity import identify
from bench.tuning import settings

NAMES = {"model": "mlp", "dataset": "digits", "optimizer": "adamw"}
Command = Callable[..., tuple[int, str, str]]
QUICK = ["model=mlp", "model.hidden=[8]", "tracker=none", "trainer.epochs=1", "trainer.device=cpu"]
QUICK += ["trainer.batch_size=600", "trainer.threads=1", "trainer.progress=none"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, lr in (("adamw", 0.031), ("sgd", 0.47)):
        path = settings.file_of(tmp_path / "found", {**NAMES, "optimizer": name})
        settings.write(path, {"optimizer.lr": lr}, {"trials": 5})
    return tmp_path / "found"


def loaded(folder: Path, *more: str) -> config.RunConfig:
    return config.load(["model=mlp", f"tuned={folder}", *more])


def test_an_optimizer_takes_its_own_settings(folder: Path) -> None:
    assert loaded(folder).optimizer["lr"] == 0.031
    assert loaded(folder, "optimizer=sgd").optimizer["lr"] == 0.47
    assert config.load(["model=mlp"]).optimizer["lr"] == 0.002


def test_it_is_the_very_run_that_the_values_describe(folder: Path) -> None:
    by_hand = config.load(["model=mlp", "optimizer.lr=0.031"])
    assert identify(loaded(folder)) == identify(by_hand)


def test_what_the_user_gives_beats_it(folder: Path) -> None:
    assert loaded(folder, "optimizer.lr=0.5").optimizer["lr"] == 0.5
    assert loaded(folder, "optimizer.eps=1e-7").optimizer["lr"] == 0.031


def test_a_multirun_takes_each_optimizers(command: Command, folder: Path) -> None:
    words = ["-m", *QUICK, f"tuned={folder}", "optimizer=adamw,sgd"]
    status, _, err = command(*words)
    assert (status, err) == (0, "")
    status, out, err = command(*words, "optimizer.lr=0.031,0.2")
    assert out.startswith("4 planned: 1 done, 3 missing")
    status, out, _ = command("-m", *QUICK, "optimizer=sgd", "optimizer.lr=0.47")
    assert out.startswith("1 planned: 1 done")
    status, out, _ = command(*QUICK, f"tuned={folder}", "optimizer=sgd")
    assert (status, "already done" in out) == (0, True)


def test_a_multirun_keeps_what_is_given_of_any_kind(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    settings.write(settings.file_of(folder, NAMES), {"optimizer.betas": [0.1, 0.2]}, {})
    command("-m", *QUICK, f"tuned={folder}", "optimizer.betas=[0.8,0.9]")
    (made,) = (tmp_path / "runs").glob("*/config.json")
    assert json.loads(made.read_text())["optimizer"]["betas"] == [0.8, 0.9]


@pytest.mark.parametrize(
    "setting", ["optimizer._target_: evil.Thing", "optimizer.lr: [os.system]", "optimizer.lr: x"]
)
def test_what_is_no_number_is_no_tuned_setting(
    command: Command, folder: Path, setting: str
) -> None:
    settings.file_of(folder, NAMES).write_text(f"settings:\n  {setting}\nprovenance: {{}}\n")
    status, _, err = command(*QUICK, f"tuned={folder}")
    assert status == 2
    assert setting.partition(":")[0] in err and "is no number, as tuned settings are" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("multi", [[], ["-m"]])
def test_missing_settings_are_one_line(
    command: Command, folder: Path, tmp_path: Path, multi: list[str]
) -> None:
    status, out, err = command(*multi, *QUICK, f"tuned={folder}", "optimizer=muon")
    assert (status, out) == (2, "")
    assert "no settings of optimizer=muon on mlp and digits" in err
    assert f"{folder}/mlp_digits/muon.yaml" in err
    assert "spectral-bench tune" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_true_means_the_shipped_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert settings.folder(True) == files.conf_dir() / "tuned"
    with pytest.raises(UserError, match=r"conf/tuned/mlp_digits/kfac\.yaml"):
        config.load(["model=mlp", "optimizer=kfac", "tuned=true"])


@pytest.mark.parametrize("content", ["", "settings: 3", "[1, 2]", "settings: {a: 1", "\t- x: {"])
def test_a_file_that_is_none_is_one_line(folder: Path, content: str) -> None:
    (folder / "mlp_digits" / "adamw.yaml").write_text(content)
    with pytest.raises(UserError, match="tune again") as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["optimizer.no_such", "no.such", "seed.deeper"])
def test_settings_that_do_not_fit_are_refused(folder: Path, key: str) -> None:
    settings.write(settings.file_of(folder, NAMES), {key: 1.0}, {})
    with pytest.raises(UserError, match="is not in this config"):
        loaded(folder)


def test_tuning_seeds_are_no_report_seeds(folder: Path) -> None:
    assert loaded(folder, "seed=999").seed == 999
    with pytest.raises(UserError, match=r"^seed: 1000 is for tuning"):
        loaded(folder, "seed=1000")
    assert config.load(["seed=1000"]).seed == 1000


def test_a_wrong_type_is_refused() -> None:
    with pytest.raises(UserError, match=r"^tuned.*: input should be"):
        config.load(["tuned=3"])


def test_a_file_is_plain_yaml_and_the_same_bytes_again(tmp_path: Path) -> None:
    provenance: dict[str, Any] = {"trials": 5, "tried": [{"optimizer.lr": 0.1, "score": None}]}
    path = tmp_path / "a" / "b.yaml"
    settings.write(path, {"optimizer.lr": 0.1}, provenance)
    first = path.read_bytes()
    settings.write(path, {"optimizer.lr": 0.1}, provenance)
    assert path.read_bytes() == first
    read = yaml.safe_load(first)
    assert read == {"settings": {"optimizer.lr": 0.1}, "provenance": provenance}
    assert [file.name for file in path.parent.iterdir()] == ["b.yaml"]
