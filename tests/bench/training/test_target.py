"""Targets: listed in conf, reached or missed, never left out; arrivals between evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.runs import load_history, load_runs
from analysis.table.build import build_table
from bench import config, files, train
from bench.errors import UserError
from bench.identity import identify
from bench.training import target as targets
from bench.training.target import Approach, Target, find, target_summary

NAMES = {"dataset": "digits", "model": "convnet"}


@pytest.mark.parametrize(
    ("metric", "value", "measured", "reached"),
    [
        ("val/accuracy", 0.9, 0.9, True),
        ("val/accuracy", 0.91, 0.9, False),
        ("test/accuracy", 0.79, 0.8, True),
        ("val/loss", 0.5, 0.5, True),
        ("val/loss", 0.49, 0.5, False),
        ("test/loss", 0.7, 0.6, True),
    ],
)
def test_accuracy_from_below_and_loss_from_above(
    metric: Any, value: float, measured: float, reached: bool
) -> None:
    assert Target(metric=metric, value=value).reached(measured) is reached


def test_every_listed_target_is_of_a_dataset_and_a_model_and_is_valid() -> None:
    listed = targets._listed()
    assert listed
    for dataset, models in listed.items():
        for model in models:
            assert find("auto", {"dataset": dataset, "model": model}) is not None
    known = {path.stem for path in (files.conf_dir() / "model").glob("*.yaml")}
    assert {"convnet", "resnet18"} <= known & set(listed["fashion_mnist"])


def test_auto_given_and_none() -> None:
    assert find("auto", NAMES) == Target(metric="val/accuracy", value=0.97)
    assert find("auto", {**NAMES, "model": "unheard_of"}) is None
    assert find("auto", {**NAMES, "dataset": "unheard_of"}) is None
    assert find(None, NAMES) is None
    own = Target(metric="test/loss", value=1.0)
    assert find(own, NAMES) is own


def seen(target: Target, values: list[float], every: int = 10) -> Approach:
    approach = Approach(target)
    for number, value in enumerate(values, 1):
        step = every * number
        approach.see(value, {"step": step, "epoch": step / 100, "seconds": 0.5 * step,
                             "flops": None})  # fmt: skip
    return approach


def test_a_miss_is_a_miss() -> None:
    target = Target(metric="val/loss", value=1.5)
    missed = target_summary(seen(target, [2.0, 1.6]))
    reached = target_summary(seen(target, [2.0, 1.0]))
    assert missed.keys() == reached.keys()
    assert (missed["target/reached"], reached["target/reached"]) == (False, True)
    assert all(missed[f"target/{name}"] is None for name in (*targets.MEASURES, "interpolated"))
    assert reached["target/step"] == 15.0  # half way from 2.0 at 10 to 1.0 at 20
    assert reached["target/epoch"] == pytest.approx(0.15)
    assert reached["target/seconds"] == 7.5
    assert reached["target/flops"] is None
    assert (reached["target/interpolated"], reached["target/resolution"]) == (True, 10)
    assert target_summary(None) == {}


def test_at_the_first_evaluation_there_is_nothing_to_interpolate() -> None:
    found = target_summary(seen(Target(metric="val/accuracy", value=0.5), [0.6, 0.9]))
    assert (found["target/step"], found["target/seconds"]) == (10, 5.0)
    assert (found["target/interpolated"], found["target/resolution"]) == (False, 10)


def test_an_evaluation_that_is_not_finite_is_none() -> None:
    found = seen(Target(metric="val/loss", value=1.0), [2.0, math.nan, math.inf, 0.0]).arrival
    assert found is not None
    assert (found.spent["step"], found.resolution) == (25.0, 30)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12), st.floats(0.01, 1.0))
def test_arrivals_against_numpys_interpolation(values: list[float], value: float) -> None:
    """The first crossing of the piecewise linear curve, by brute force over its pieces."""
    target = Target(metric="val/accuracy", value=value)
    approach = seen(target, values)
    steps = 10.0 * np.arange(1, len(values) + 1)
    above = np.flatnonzero(np.array(values) >= value)
    assert (approach.arrival is not None) == bool(len(above))
    if approach.arrival is None:
        return
    step = approach.arrival.spent["step"]
    assert step is not None
    first = int(above[0])
    expected = steps[0]
    if first:
        piece = slice(first - 1, first + 1)
        expected = np.interp(value, np.array(values)[piece], steps[piece])
    assert step == pytest.approx(expected)
    assert approach.arrival.spent["seconds"] == pytest.approx(0.5 * step)
    mirrored = seen(Target(metric="val/loss", value=2.0 - value), [2.0 - v for v in values])
    if all(abs(v - value) > 1e-9 for v in values):  # rounding decides about equals
        assert mirrored.arrival is not None
        assert mirrored.arrival.spent["step"] == pytest.approx(step)


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12), st.data())
def test_a_saved_approach_goes_on(values: list[float], data: st.DataObject) -> None:
    target = Target(metric="val/accuracy", value=0.5)
    cut = data.draw(st.integers(0, len(values)))
    rest = Approach(target)
    rest.load_state_dict(seen(target, values[:cut]).state_dict())
    for number, value in enumerate(values[cut:], cut + 1):
        rest.see(value, {"step": 10 * number, "epoch": number / 10, "seconds": 5.0 * number,
                         "flops": None})  # fmt: skip
    assert rest.arrival == seen(target, values).arrival


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
    at = next(i for i, row in enumerate(rows) if row["val/accuracy"] >= 0.15)
    assert at > 0, "it must be between two evaluations"
    known = [row["val/accuracy"] for row in rows[at - 1 : at + 1]]
    step = np.interp(0.15, known, [row["step"] for row in rows[at - 1 : at + 1]])
    assert summary["target/reached"] is True
    assert summary["target/step"] == pytest.approx(step)
    assert summary["target/epoch"] == pytest.approx(step / 3)
    assert (summary["target/interpolated"], summary["target/resolution"]) == (True, 3)
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


@pytest.mark.parametrize("every", [None, 1])
def test_tables_find_the_arrival_that_the_run_found(
    quick: Callable[..., config.RunConfig], every: int | None
) -> None:
    target = Target(metric="val/accuracy", value=0.15)
    options = [f"trainer.evaluate_every={every or 'null'}", "trainer.epochs=4"]
    run = quick(*options, "target={metric: val/accuracy, value: 0.15}")
    own = train.train(run)
    assert own["target/interpolated"]
    runs, histories = load_runs(run.runs_dir), partial(load_history, run.runs_dir)
    for measure in ("step", "epoch", "seconds"):
        metric = f"target/{measure}"
        ((cell,),) = build_table(runs, metric=metric, target=target, histories=histories).cells
        # A run's clock knows each step's seconds, a history only how many there were.
        close = 0.75 if measure == "seconds" else 1e-9
        assert cell.mean == pytest.approx(own[metric], rel=close)
    assert own["target/resolution"] == (every or 3)


@pytest.mark.parametrize("value", [0.1, 0.3])  # at the first evaluation; between two
def test_an_arrival_survives_an_interruption(build: Any, value: float) -> None:
    target = Target(metric="val/accuracy", value=value)
    options = {"target": target, "checkpoint_every": 1, "epochs": 3}
    whole = build("whole", **options)
    whole.run()
    arrival = whole.approach.arrival
    assert arrival is not None
    assert arrival.interpolated is (value > 0.2)
    for at in range(1, 13):
        with pytest.raises(KeyboardInterrupt):
            build(f"stopped-{at}", stop=build.Stop(at), **options).run()
        rest = build(f"stopped-{at}", **options)
        rest.run()
        found = rest.approach.arrival
        assert found.spent["step"] == arrival.spent["step"]
        assert found.spent["epoch"] == arrival.spent["epoch"]
        assert found[1:] == arrival[1:]


def test_an_arrival_in_a_checkpoint_of_an_earlier_version_counts(build: Any) -> None:
    target = Target(metric="val/loss", value=1e9)
    loop = build("whole", target=target)
    loop.run()
    state = {k: v for k, v in loop.state_dict().items() if k != "approach"}
    state["arrival"] = {"step": 4, "epoch": 1.0, "seconds": 2.5, "flops": None}
    again = build("again", target=target)
    again.load_state_dict(state)
    found = again.summary("done")
    assert (found["target/step"], found["target/seconds"]) == (4, 2.5)
    assert (found["target/interpolated"], found["target/resolution"]) == (False, 4)
