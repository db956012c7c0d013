"""Evaluation every so many steps: it sees the run, and leaves it as it was, to the last bit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from loops import MOMENTUM, TOTAL, Build, Same, history_file, ran
from torch import Tensor, nn

from bench import config
from bench.identity import identify
from bench.run_folder import Row
from bench.training.target import OF_STEPS, Target

ADAMW = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.01, "weight_decay": 0.1}
MUON = {
    "_target_": "optimizers.Muon",
    "_partial_": True,
    "params": {"_target_": "optimizers.partition.hidden_matrices", "_partial_": True},
    "lr": 0.02,
}
SCHEDULE_FREE = {"_target_": "pytorch_optimizer.ScheduleFreeAdamW", "_partial_": True, "lr": 0.01}
OPTIMIZERS = pytest.mark.parametrize(
    "optimizer",
    [ADAMW, MOMENTUM, MUON, SCHEDULE_FREE],
    ids=["adamw", "sgd", "muon", "schedule_free"],
)
NAMES = set(OF_STEPS.values())


def without(history: list[Row]) -> list[Row]:
    """A history as it is without evaluations every so many steps."""
    rows = [{name: row[name] for name in row if name not in NAMES} for row in history]
    return [row for row in rows if row.keys() - {"step", "epoch"}]


def evaluated(history: list[Row]) -> dict[int, tuple[float, float]]:
    """The evaluations every so many steps, by step."""
    return {
        row["step"]: (row["step/val_loss"], row["step/val_accuracy"])
        for row in history
        if "step/val_loss" in row
    }


@OPTIMIZERS
@pytest.mark.parametrize("every", [1, 3])
def test_it_leaves_weights_history_and_checkpoints_as_they_were(
    build: Build, assert_same: Same, optimizer: dict[str, Any], every: int
) -> None:
    plain = ran(build("plain", optimizer=optimizer))
    seen = ran(build("seen", optimizer=optimizer, evaluate_every=every, evaluate_samples=5))
    assert_same(seen.state_dict(), plain.state_dict())
    paths = [loop.folder.path for loop in (plain, seen)]
    for name in ("checkpoint.pt", "checkpoint.prev.pt"):
        assert_same(*(torch.load(path / name, weights_only=True) for path in paths), name)
    lines = [json.dumps(row) for row in without(seen.history)]
    assert lines == history_file(plain).decode().splitlines()
    assert list(evaluated(seen.history)) == {1: [1, 2, 3, 4, 5, 6, 7, 8], 3: [3, 6, 8]}[every]
    steps = [row["step"] for row in seen.history]
    assert steps == sorted(set(steps))


@OPTIMIZERS
@pytest.mark.parametrize("checkpoint_every", [None, 1])
def test_an_interrupted_run_has_the_same_evaluations(
    build: Build, assert_same: Same, optimizer: dict[str, Any], checkpoint_every: int | None
) -> None:
    options = {"optimizer": optimizer, "checkpoint_every": checkpoint_every, "evaluate_every": 3}
    whole = ran(build("whole", **options))
    for at in range(1, TOTAL + 1):
        name = f"stopped-{at}"
        with pytest.raises(KeyboardInterrupt):
            build(name, stop=build.Stop(at), **options).run()
        rest = ran(build(name, **options))
        assert_same(rest.state_dict(), whole.state_dict(), name)
        assert history_file(rest) == history_file(whole)


def reference(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    model.eval()
    with torch.no_grad():
        chances = model(images).double().softmax(1)
    likelihood = chances[torch.arange(len(labels)), labels]
    right = chances.argmax(1) == labels
    return float(-likelihood.log().mean()), float(right.double().mean())


@pytest.mark.parametrize("samples", [5, 1000])
def test_the_part_is_of_the_validation_split_and_fixed(build: Build, samples: int) -> None:
    """Of the same positions whatever the seed, each at most once; all of a smaller split."""
    options = {"evaluate_every": 3, "evaluate_samples": samples}
    loops = [ran(build(f"seed-{seed}", seed=seed, **options)) for seed in (0, 1)]
    (first, labels), (second, _) = (loop.evaluation._part for loop in loops)
    assert torch.equal(first, second)
    whole = loops[0].data.normalise(loops[0].data.val.images)
    places = [int((whole == image).flatten(1).all(1).nonzero()) for image in first]
    assert len(places) == min(samples, 12)
    assert places == sorted(set(places))
    loop = loops[0]
    expected = reference(loop.model, first, labels)
    assert evaluated(loop.history)[TOTAL] == pytest.approx(expected, rel=1e-5)
    if samples == 1000:
        last = loop.history[-1]
        assert last["step/val_loss"] == pytest.approx(last["val/loss"], rel=1e-6)
        assert last["step/val_accuracy"] == last["val/accuracy"]


def test_its_seconds_are_apart(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each evaluation of the part takes 100 s of a made-up clock, all else none."""
    loop = build(evaluate_every=3)
    now = [0.0]
    monkeypatch.setattr("bench.training.summary.time.perf_counter", lambda: now[0])
    measure = loop.evaluation.measure_part

    def slowly(step: int) -> dict[str, float]:
        now[0] += 100.0
        return measure(step)

    monkeypatch.setattr(loop.evaluation, "measure_part", slowly)
    loop.run()
    summary = loop.summary("done")
    assert summary["clock/step_evaluation_seconds"] == 300.0
    assert loop.clock.training == summary["clock/evaluation_seconds"] == 0.0


def test_the_target_is_looked_for_in_the_finest_evaluations(build: Build) -> None:
    images = build.images()
    learnt = replace(images, val=images.train)  # else the loss of noise only rises
    options = {"evaluate_every": 1, "epochs": 6, "data": learnt}
    losses = [loss for loss, _ in evaluated(ran(build("first", **options)).history).values()]
    at = next(n for n in range(5, 24) if losses[n] < min(losses[:n]))
    value = (losses[at] + min(losses[:at])) / 2
    loop = ran(build(target=Target(metric="val/loss", value=value), **options))
    found = loop.summary("done")
    share = (losses[at - 1] - value) / (losses[at - 1] - losses[at])
    assert found["target/step"] == pytest.approx(at + share)  # losses[0] is of step 1
    assert (found["target/interpolated"], found["target/resolution"]) == (True, 1)
    # The test split has whole epochs alone.
    loop = ran(build("test", evaluate_every=1, target=Target(metric="test/loss", value=1e9)))
    assert loop.summary("done")["target/step"] == 4


class DrawsWhenEvaluated(nn.Module):
    """Draws random numbers in evaluation, and in training through dropout."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.inner(inputs)
        return logits if self.training else logits + torch.rand_like(logits)


def test_random_numbers_that_an_evaluation_draws_are_taken_back(
    build: Build, assert_same: Same
) -> None:
    loops = []
    for name, every in (("plain", None), ("seen", 1)):
        loop = build(name, evaluate_every=every)
        loop.evaluation.model = DrawsWhenEvaluated(loop.model)
        loops.append(ran(loop))
    assert_same(loops[1].state_dict(), loops[0].state_dict())
    assert without(loops[1].history) == loops[0].history


# -- runs that diverge ----------------------------------------------------------------------------


@pytest.mark.parametrize("at", [2, 5, 6])
def test_a_run_that_diverges_ends_as_it_would(
    build: Build, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """One step's loss is not finite, the weights stay: what is evaluated later is not the run's."""
    histories = []
    for name, every in (("plain", None), ("seen", 1)):
        loop = build(name, evaluate_every=every)
        step = loop.training_step

        def breaks(*batch: Tensor, step: Any = step, loop: Any = loop) -> Tensor:
            loss: Tensor = step(*batch)
            return loss * math.nan if loop.step + 1 == at else loss

        breaks.cold, breaks.optimizer_state = False, step.optimizer_state  # type: ignore[attr-defined]
        monkeypatch.setattr(loop, "training_step", breaks)
        with pytest.raises(Exception, match=f"nan at step {at}"):
            loop.run()
        histories.append(loop.history)
    assert without(histories[1]) == histories[0]
    assert list(evaluated(histories[1])) == list(range(1, at))


def test_an_evaluation_that_is_not_finite_does_not_end_a_run(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = build(evaluate_every=1)
    measured = loop.evaluation._measured

    def once(batches: Any) -> tuple[float, float]:
        found = measured(batches)
        return (math.nan, 0.0) if loop.step == 2 else found

    monkeypatch.setattr(loop.evaluation, "_measured", once)
    loop.run()
    assert list(evaluated(loop.history)) == [1, 3, 4, 5, 6, 7, 8]


# -- its options ----------------------------------------------------------------------------------


def test_it_is_no_part_of_the_identity() -> None:
    plain = config.load([])
    seen = config.load(["trainer.evaluate_every=5", "trainer.evaluate_samples=7"])
    assert identify(seen) == identify(plain)
    assert plain.trainer.evaluate_every is None
    assert plain.trainer.evaluate_samples == 1000
