"""Targets: found in conf, reached or missed, and never left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import config, paths, train
from bench.errors import UserError
from bench.identity import identify
from bench.training import targets
from bench.training.targets import Arrival, Target, find, target_summary

MEASURED = {"val/accuracy": 0.9, "val/loss": 0.5, "test/accuracy": 0.8, "test/loss": 0.6}
NAMES = {"dataset": "digits", "model": "convnet"}


@pytest.mark.parametrize(
    ("metric", "value", "reached"),
    [
        ("val/accuracy", 0.9, True),
        ("val/accuracy", 0.91, False),
        ("test/accuracy", 0.79, True),
        ("val/loss", 0.5, True),
        ("val/loss", 0.49, False),
        ("test/loss", 0.7, True),
    ],
)
def test_accuracy_from_below_and_loss_from_above(metric: Any, value: float, reached: bool) -> None:
    assert Target(metric=metric, value=value).reached(MEASURED) is reached


def test_every_listed_target_is_of_a_dataset_and_a_model_and_is_valid() -> None:
    listed = targets._listed()
    assert listed
    for dataset, models in listed.items():
        for model in models:
            assert find("auto", {"dataset": dataset, "model": model}) is not None
    known = {path.stem for path in (paths.conf_dir() / "model").glob("*.yaml")}
    assert {"convnet", "resnet18"} <= known & set(listed["fashion_mnist"])


def test_auto_given_and_none() -> None:
    assert find("auto", NAMES) == Target(metric="val/accuracy", value=0.97)
    assert find("auto", {**NAMES, "model": "unheard_of"}) is None
    assert find("auto", {**NAMES, "dataset": "unheard_of"}) is None
    assert find(None, NAMES) is None
    own = Target(metric="test/loss", value=1.0)
    assert find(own, NAMES) is own


def test_a_miss_is_a_miss() -> None:
    target = Target(metric="val/loss", value=1.5)
    missed = target_summary(target, None)
    arrival: Arrival = {"step": 10, "epoch": 2.0, "seconds": 3.5, "flops": 1e9}
    reached = target_summary(target, arrival)
    assert missed.keys() == reached.keys()
    assert (missed["target/reached"], reached["target/reached"]) == (False, True)
    for name in ("step", "epoch", "seconds", "flops"):
        assert missed[f"target/{name}"] is None
        assert reached[f"target/{name}"] == arrival[name]  # type: ignore[literal-required]
    assert target_summary(None, None) == {}


def test_the_target_is_no_part_of_the_identity() -> None:
    own = config.load(["target={metric: val/loss, value: 0.3}"])
    assert own.target == Target(metric="val/loss", value=0.3)
    assert identify(own) == identify(config.load([])) == identify(config.load(["target=null"]))


@pytest.mark.parametrize(
    "text", ["target=0.9", "target={metric: train/loss, value: 1.0}", "target={metric: val/loss}"]
)
def test_a_target_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match=r"target: write auto, null, or for example"):
        config.load([text])


# -- in a run -------------------------------------------------------------------------------------


def test_the_first_arrival_counts(quick: Callable[..., config.RunConfig]) -> None:
    run = quick("trainer.epochs=4", "target={metric: val/accuracy, value: 0.15}")
    summary = train.train(run)
    folder = Path(run.runs_dir) / identify(run).id
    rows = [row for row in train.RunFolder(folder).history() if "val/accuracy" in row]
    first = next(row for row in rows if row["val/accuracy"] >= 0.15)
    assert summary["target/reached"] is True
    assert (summary["target/step"], summary["target/epoch"]) == (first["step"], first["epoch"])
    total = summary["clock/data_seconds"] + summary["clock/step_seconds"]
    assert 0 < summary["target/seconds"] <= total
    assert summary["target/flops"] is None  # accounting is off in quick runs


def test_flops_to_the_target(quick: Callable[..., config.RunConfig]) -> None:
    run = quick("trainer.accounting=true", "target={metric: val/loss, value: 100.0}")
    summary = train.train(run)
    assert summary["target/step"] == 3
    expected = 3 * (400 * summary["flops/sample"] + summary["flops/optimizer_step"])
    assert summary["target/flops"] == summary["flops/total"] == expected > 0


def test_a_run_that_misses_says_so(quick: Callable[..., config.RunConfig]) -> None:
    summary = train.train(quick("target={metric: val/accuracy, value: 1.0}"))
    assert summary["target/reached"] is False
    assert summary["target/step"] is summary["target/seconds"] is None


def test_an_arrival_survives_an_interruption(build: Any) -> None:
    target = Target(metric="val/loss", value=1e9)
    stopped = build("stopped", stop=build.Stop(6), checkpoint_every=1)
    stopped.target = target
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    rest = build("stopped", checkpoint_every=1)
    rest.target = target
    rest.run()
    assert rest.arrival["step"] == 4
    assert rest.summary("done")["target/epoch"] == 1.0
