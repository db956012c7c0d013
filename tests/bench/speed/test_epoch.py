"""The epoch benchmark, on sets that a test can afford."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import experiment
from bench.errors import UserError
from bench.speed import epoch
from bench.speed.epoch import EpochOptions, OurLoop, Row, run_config_of

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
    epoch.main([*SMALL, f"data_dir={tmp_path}", "profile=true", f"out={out}"])
    text = capsys.readouterr().out
    for part in ("ours (eager, float32)", "(a) plain float32", "(b) plain AMP", "of ceiling"):
        assert part in text
    assert "the optimizer alone" in text
    assert "ms a step" in text
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["steps_per_epoch"] == 5  # 180 images in batches of 32
    ours, plain, amp = found["rows"]
    for row in (ours, plain, amp):
        assert len(row["epochs"]) == 2
        assert row["seconds"] == pytest.approx(sum(row["epochs"]) / 2)
        assert row["samples_per_second"] == pytest.approx(160 / row["seconds"])
        flops = row["samples_per_second"] * found["cost"]["flops_per_sample"]
        assert row["tflops"] == pytest.approx(flops / 1e12)
        assert row["utilisation"] == pytest.approx(row["tflops"] / found["ceiling_tflops"])
    assert f"{plain['seconds'] / ours['seconds']:.1f} x" in text


def test_some_steps_stand_for_an_epoch() -> None:
    asked = EpochOptions.model_validate({"batch_size": 10, "epochs": 2, "steps": 2})

    def loop(steps: int | None) -> tuple[float, int]:
        assert steps == 2
        return 0.5, 2

    first, times, peaks = epoch._in_turn({"x": loop}, asked, 7, CPU)
    assert first == {"x": 0.5}  # as it was, compilation included
    assert times == {"x": (0.5 * 7 / 2, 0.5 * 7 / 2)}
    assert peaks == {"x": None}


def test_our_loop_trains_with_other_batches_every_epoch(tmp_path: Path) -> None:
    asked = EpochOptions.model_validate(
        {"model": "convnet", "batch_size": 32, "overrides": ["dataset.count=200"], "plain": False}
    )
    run_config = run_config_of(asked, CPU)
    loop = OurLoop(run_config, experiment.build_data(run_config), CPU)
    start = loop.step.model.conv1.weight.detach().clone()  # type: ignore[union-attr,operator]
    seconds, steps = loop.epoch()
    assert (steps, loop.number) == (5, 1)
    assert seconds > 0
    assert loop.epoch(steps=3)[1] == 3
    assert loop.preparation == 0.0
    assert not torch.equal(start, loop.step.model.conv1.weight)  # type: ignore[arg-type]


def test_a_run_is_composed_as_for_training(tmp_path: Path) -> None:
    asked = EpochOptions.model_validate(
        {"optimizer": "muon", "batch_size": 48, "overrides": ["optimizer.lr=0.5"], "compile": True}
    )
    run_config = run_config_of(asked, CPU)
    assert run_config.trainer.batch_size == 48
    assert run_config.optimizer["lr"] == 0.5
    assert run_config.optimizer["compile"] is run_config.trainer.compile is True
    assert not run_config_of(EpochOptions.model_validate({}), CPU).trainer.compile
    assert run_config_of(asked, torch.device("cpu")).trainer.device == "cpu"


def test_the_median_epoch_counts() -> None:
    row = Row("x", (3.0, 1.0, 8.0), 9.0, 1.0, 1.0, 0.5, None)
    assert row.seconds == 3.0


@pytest.mark.parametrize(
    ("argument", "said"),
    [
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
