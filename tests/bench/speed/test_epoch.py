"""The epoch benchmark, on sets that a test can afford."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import UserError
from bench.parts import build_data
from bench.setup import Setup
from bench.speed import epoch
from bench.speed.epoch import EpochOptions, run_config_of
from bench.speed.loops import OurLoop
from bench.speed.stopwatch import Epoch

CPU = torch.device("cpu")
SMALL = [
    "model=convnet",
    "dataset=synthetic_images",
    "batch_size=32",
    "epochs=2",
    "workers=0",
    "device=cpu",
    "overrides=dataset.count=200,dataset.image_size=8,dataset.pad=1,dataset.flip=true",
]


def test_the_table_and_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "epoch.json"
    names = ["adamw", "spectral_newton:damping=0.1"]
    arguments = [f"optimizer={','.join(names)}", f"data_dir={tmp_path}", "profile=true"]
    epoch.main([*SMALL, *arguments, f"out={out}"])
    text = capsys.readouterr().out
    loops = [*(f"ours, {name} (eager, float32)" for name in names), "(a) plain float32"]
    for part in (*loops, "(b) plain AMP", "of ceiling", "5 steps an epoch", "ms a step"):
        assert part in text
    assert "plain loops: adamw, a DataLoader with workers=0 on " in text
    assert "the optimizer alone" in text
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["steps_per_epoch"] == 5  # 180 images in batches of 32
    assert [row["loop"] for row in found["rows"]] == [*loops, "(b) plain AMP"]
    first = [one["seconds"] for one in found["rows"][0]["epochs"]]
    for row in found["rows"]:
        seconds = [one["seconds"] for one in row["epochs"]]
        assert len(seconds) == 2
        assert row["seconds"] == pytest.approx(sum(seconds) / 2)
        assert row["ratios"] == pytest.approx([a / b for a, b in zip(seconds, first, strict=True)])
        assert 0 < row["waiting"] < row["seconds"]
        assert row["samples_per_second"] == pytest.approx(160 / row["seconds"])
        flops = row["samples_per_second"] * row["flops_per_sample"]
        assert row["tflops"] == pytest.approx(flops / 1e12)
        assert row["utilisation"] == pytest.approx(flops / row["ceiling"])
    damped = found["rows"][1]["cost"]
    assert damped["optimizer_flops"] > found["rows"][0]["cost"]["optimizer_flops"] == 0


class Recorded:
    """A loop of steps of half a second, that writes down whose turn it is."""

    def __init__(self, name: str, turns: list[str]) -> None:
        self.name, self.turns = name, turns

    def epoch(self, steps: int | None) -> Epoch:
        assert steps == 2
        self.turns.append(self.name)
        return Epoch(1.0, 2, 0.25)


def test_each_loop_has_its_turn_in_every_round() -> None:
    turns: list[str] = []
    makers: list[Any] = [functools.partial(Recorded, name, turns) for name in "ab"]
    contenders = epoch.compete(makers, 2, 2, CPU)
    assert turns == ["a", "b"] * 3
    assert [len(contender.epochs) for contender in contenders] == [2, 2]
    assert contenders[0].first == (1.0, 2, 0.25)  # as it was, compilation included
    assert contenders[0].peak_mib is None


def test_our_loop_trains_with_other_batches_every_epoch() -> None:
    asked = EpochOptions.model_validate(
        {"model": "convnet", "batch_size": 32, "overrides": ["dataset.count=200"], "plain": False}
    )
    run_config = run_config_of(asked, "adamw", CPU)
    loop = OurLoop(Setup.of(run_config), build_data(run_config), "x")
    start = loop.step.model.conv1.weight.detach().clone()  # type: ignore[union-attr,operator]
    whole = loop.epoch()
    assert (whole.steps, loop.number) == (5, 1)
    assert whole.seconds > whole.waiting > 0
    assert loop.epoch(steps=3).steps == 3
    assert loop.preparation == 0.0
    assert loop.pace() is None
    assert loop.name == "ours, x (eager, float32)"
    assert not torch.equal(start, loop.step.model.conv1.weight)  # type: ignore[arg-type]


def test_a_run_is_composed_as_for_training() -> None:
    asked = EpochOptions.model_validate(
        {"batch_size": 48, "overrides": ["optimizer.lr=0.5"], "compile": True}
    )
    run_config = run_config_of(asked, "muon:ns_steps=3", CPU)
    assert run_config.trainer.batch_size == 48
    assert run_config.optimizer["lr"] == 0.5
    assert run_config.optimizer["ns_steps"] == 3
    assert run_config.optimizer["compile"] is run_config.trainer.compile is True
    assert not run_config_of(EpochOptions.model_validate({}), "adamw", CPU).trainer.compile
    assert run_config_of(asked, "adamw", CPU).trainer.device == "cpu"


@pytest.mark.slow
def test_a_filled_cache_of_compiled_code_saves_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # put back what the command sets
    out = tmp_path / "epoch.json"
    options = ["plain=false", "compile=true", "start=true", "steps=2", f"data_dir={tmp_path}"]
    options += ["model=mlp", "dataset=digits", "batch_size=32", "device=cpu", "epochs=1"]
    epoch.main([*options, f"out={out}"])
    text = capsys.readouterr().out
    assert "compilation and warm-up in a new process, filled cache: " in text
    found = json.loads(out.read_text())
    (empty,), (filled,) = found["start"]["empty"], found["start"]["filled"]
    assert 0 < filled < 0.8 * empty
    assert found["rows"][0]["preparation"] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_pace_of_host_and_device_and_the_plain_variants(tmp_path: Path) -> None:
    asked = EpochOptions.model_validate(
        {"model": "resnet18", "batch_size": 256, "epochs": 1, "workers": 0, "compile": False}
        | {"overrides": ["dataset.count=1500"], "data_dir": str(tmp_path)}
    )
    found = epoch.measure(asked, torch.device("cuda"))
    ours, *plain = found["rows"]
    assert 0 < ours.pace.host < ours.pace.device
    assert ours.peak_mib > 100
    assert [row.loop[:4] for row in plain] == ["(a) ", "(a')", "(b) "]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("optimizer=adamw:betta=3", "betta"),
        ("model=resnet19", "model=resnet19: there is no such model; did you mean resnet18?"),
        ("batch_size=0", "batch_size=0 is not valid"),
        ("overrides=datset.count=3", "datset"),
        ("overrides=dataset.cuont=3", "did you mean count?"),
    ],
)
def test_mistakes_are_one_line(argument: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        epoch.main([argument, "device=cpu", f"data_dir={tmp_path}"])
    assert said in str(caught.value)
