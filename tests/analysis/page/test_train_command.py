from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose

from analysis.page.train_command import command
from bench.compose import composing
from bench.config import container, load, typed, without_hydra
from bench.identity import identify
from bench.setup import Setup


def stored(*overrides: str) -> dict[str, Any]:
    """What config.json of the run that ``overrides`` ask for holds."""
    config = load(overrides)
    whole: dict[str, Any] = json.loads(json.dumps(Setup.of(config).stored))
    return whole


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer=muon", "optimizer.lr=0.0123", "trainer=debug", "trainer.grad_clip=1.5"],
        ["optimizer=adamw", "optimizer.betas=[0.8,0.95]", "+optimizer.amsgrad=true"],
        ["model=mlp", "schedule=wsd", "trainer.channels_last=false", "+sweeps=digits"],
    ],
)
def test_the_command_asks_for_the_very_same_run(overrides: list[str]) -> None:
    """Composed again, it has the identity of the run, which covers its whole config."""
    config = stored(*overrides, "seed=3")
    words = shlex.split(command([config]))
    assert words[:2] == ["spectral-bench", "train"]
    assert identify(load(words[2:])).id == config["id"]


def test_seeds_are_swept_and_nothing_else_is_said() -> None:
    first, second = stored("seed=0"), stored("seed=1")
    assert command([second, first]) == (
        "spectral-bench train -m model=convnet dataset=digits optimizer=adamw schedule=cosine"
        " trainer=default seed=0,1"
    )


def test_a_run_of_a_machine_with_a_gpu_has_its_command_on_one_without() -> None:
    config = stored("optimizer=muon", "optimizer.lr=0.036", "trainer.epochs=8", "seed=0")
    gpu = load(["trainer=gpu", "trainer.device=cpu"]).model_dump(mode="json")
    trainer = {**config["trainer"], **gpu["trainer"], "device": "cuda", "epochs": 8}
    config |= {"trainer": trainer, "names": {**config["names"], "trainer": "gpu"}}
    words = shlex.split(command([config]))
    assert words[-3:] == ["optimizer.lr=0.036", "trainer.epochs=8", "seed=0"]
    assert "trainer=gpu" in words


def test_a_run_that_needed_measured_exponents_has_its_command_without_them() -> None:
    config = stored("seed=0")
    choices = {**config["names"], "optimizer": "spectral_newton_measured"}
    overrides = ["optimizer=spectral_newton_measured"]
    with composing():
        composed = compose("train", overrides=overrides, return_hydra_config=True)
    asked = typed(container(without_hydra(composed)), choices).model_dump(mode="json")
    optimizer = {**asked["optimizer"], "lr": 0.5, "exponents": "a/exponents.parquet"}
    config |= {"names": choices, "optimizer": optimizer, "exponents": "a/exponents.parquet"}
    words = shlex.split(command([config]))
    assert {'exponents="a/exponents.parquet"', "optimizer.lr=0.5"} <= set(words)


def test_a_choice_that_is_no_more_is_still_named() -> None:
    config = stored("seed=0")
    config["names"]["optimizer"] = "gone"
    assert "optimizer=gone" in command([config])


@pytest.mark.parametrize("up", ["../" * 40, "/"])
def test_a_choice_that_is_a_path_reads_no_config(
    up: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Composed, the choice would import what the file names."""
    (tmp_path / "evil_choice.py").write_text("from pathlib import Path\nPath('mark').touch()\n")
    (tmp_path / "evil.yaml").write_text("_target_: evil_choice.call\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = stored("seed=0")
    config["names"]["optimizer"] = f"{up}{tmp_path.as_posix().lstrip('/')}/evil"
    assert "evil" in command([config])
    assert "evil_choice" not in sys.modules
    assert not (tmp_path / "mark").exists()
