"""The loop: what a step does, what is measured, and how a run diverges."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loops import EPOCHS, MOMENTUM, SGD, STEPS, TOTAL, Build, Same, history_file, ran
from torch import Tensor, nn

from bench.data.images import Augment
from bench.loop import Loop
from bench.run_folder import Row
from bench.tracking import NullTracker, RunInfo
from bench.training.losses import DivergedError

# -- seeds ----------------------------------------------------------------------------------------


def test_a_seed_is_a_run(build: Build, assert_same: Same) -> None:
    begun = [build(name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    weights = [loop.model.conv.weight.clone() for loop in begun]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    first, again = ran(build("a")), ran(build("b"))
    other = ran(build("c", seed=1))
    assert_same(first.state_dict(), again.state_dict())
    assert history_file(first) == history_file(again)
    assert not torch.equal(first.model.conv.weight, other.model.conv.weight)


def test_two_seeds_see_the_data_in_another_order(build: Build) -> None:
    plain = build.images(Augment())
    orders = []
    for seed in (0, 0, 1):
        loop = build(f"{len(orders)}", seed=seed, data=plain)
        orders.append(torch.cat([inputs for inputs, _ in loop._batches()]))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


# -- what a step is -------------------------------------------------------------------------------


def softmax_regression(channels: int, classes: int, size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, classes))


def reference(
    loop: Loop, lr: float, smoothing: float, clip: float | None
) -> tuple[list[Tensor], list[float]]:
    """Plain SGD by hand, in float64: weights and losses of a run without dropout."""
    model = loop.model
    weights = {key: value.detach().double() for key, value in model.named_parameters()}
    losses = []
    for step in range(TOTAL):
        epoch, number = divmod(step, STEPS)
        batches = list(loop.data.train_batches(loop.setup.config.seed, epoch, 8))
        inputs, labels = batches[number]
        leaf = {key: value.clone().requires_grad_() for key, value in weights.items()}
        logits = inputs.double().flatten(1) @ leaf["1.weight"].T + leaf["1.bias"]
        log_p = logits - logits.logsumexp(1, keepdim=True)
        target = torch.full_like(log_p, smoothing / 3)
        target[torch.arange(8), labels] += 1 - smoothing
        loss = -(target * log_p).sum(1).mean()
        grads = torch.autograd.grad(loss, list(leaf.values()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
        shrink = min(1.0, clip / norm) if clip else 1.0
        rate = lr * loop.parts.schedule.lr_lambdas[0](step)
        weights = {
            key: weights[key] - rate * shrink * grad
            for key, grad in zip(weights, grads, strict=True)
        }
        losses.append(loss.item())
    return list(weights.values()), losses


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("clip", [None, 0.5, 1e6])
def test_steps_are_those_of_a_loop_by_hand(
    build: Build, monkeypatch: pytest.MonkeyPatch, parts: Any, smoothing: float, clip: float | None
) -> None:
    monkeypatch.setattr(parts, "NoisyNet", softmax_regression)
    loop = build(optimizer=SGD, label_smoothing=smoothing, grad_clip=clip, log_every=1)
    weights, losses = reference(loop, 0.1, smoothing, clip)
    loop.run()
    for found, expected in zip(loop.model.parameters(), weights, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    assert [row["train/loss"] for row in loop.history] == pytest.approx(losses, rel=1e-4)


def test_the_last_batch_of_an_epoch_is_a_whole_one(build: Build) -> None:
    loop = build()
    loop.run()
    training = [dtype for dtype, is_training, _ in loop.model.seen if is_training]
    assert len(training) == TOTAL


def test_clipping_and_smoothing_do_something(build: Build) -> None:
    # Or the test above would hold for a loop that ignores both.
    options = {"optimizer": SGD, "label_smoothing": 0.0, "grad_clip": None}
    plain = ran(build("plain", **options))
    smoothed = ran(build("smoothed", **{**options, "label_smoothing": 0.3}))
    clipped = ran(build("clipped", **{**options, "grad_clip": 0.5}))
    weights = [loop.model.head.weight for loop in (plain, smoothed, clipped)]
    assert not torch.allclose(weights[0], weights[1], atol=1e-4)
    assert not torch.allclose(weights[0], weights[2], atol=1e-4)


# -- what is measured -----------------------------------------------------------------------------


def test_history_has_a_row_a_window_and_a_whole_row_an_epoch(build: Build) -> None:
    loop = build(log_every=3)
    loop.run()
    assert [row["step"] for row in loop.history] == [3, 4, 6, 8]
    for row in loop.history:
        assert row["epoch"] == row["step"] / STEPS
        evaluated = {"val/loss", "val/accuracy", "test/loss", "test/accuracy"} & set(row)
        assert len(evaluated) == (4 if row["step"] % STEPS == 0 else 0)
        assert {"train/loss", "lr"} <= set(row)
        assert all(math.isfinite(value) for value in row.values())
    rows = [json.loads(line) for line in history_file(loop).splitlines()]
    assert rows == loop.history
    assert "second" not in history_file(loop).decode()  # no clock: runs can be compared


def test_a_window_is_the_mean_of_its_losses(build: Build) -> None:
    fine, coarse = ran(build("fine", log_every=1)), ran(build("coarse", log_every=3))
    losses = [row["train/loss"] for row in fine.history]
    windows = [losses[0:3], losses[3:4], losses[4:6], losses[6:8]]
    expected = [sum(window) / len(window) for window in windows]
    assert [row["train/loss"] for row in coarse.history] == pytest.approx(expected, rel=1e-12)


def test_the_rate_of_a_row_is_that_of_its_last_step(build: Build) -> None:
    loop = build(optimizer=MOMENTUM, log_every=1)
    used: list[float] = []
    loop.training_step.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"])
    )
    loop.run()
    assert [row["lr"] for row in loop.history] == pytest.approx(used, rel=1e-12)
    assert used[-1] == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * 5 / 6)))


def test_evaluation_is_in_eval_mode_without_smoothing_and_leaves_no_trace(build: Build) -> None:
    loop = build(label_smoothing=0.4)
    loop.run()
    state = {key: value.clone() for key, value in loop.model.state_dict().items()}
    random = torch.get_rng_state()
    assert loop.evaluation.split("val") == (
        loop.history[-1]["val/loss"],
        loop.history[-1]["val/accuracy"],
    )
    assert torch.equal(torch.get_rng_state(), random)  # dropout drew nothing
    for key, value in loop.model.state_dict().items():
        assert torch.equal(value, state[key]), key  # running means and counters, too
    loop.model.eval()
    for split, samples in (("val", loop.data.val), ("test", loop.data.test)):
        with torch.no_grad():
            logits = loop.model(loop.data.normalise(samples.images)).double()
        loss = F.cross_entropy(logits, samples.labels).item()
        accuracy = (logits.argmax(1) == samples.labels).double().mean().item()
        assert loop.history[-1][f"{split}/loss"] == pytest.approx(loss, rel=1e-5)
        assert loop.history[-1][f"{split}/accuracy"] == pytest.approx(accuracy, abs=1e-12)


def test_training_is_in_train_mode_again_after_an_evaluation(build: Build) -> None:
    loop = build()
    loop.run()
    epoch = [True] * STEPS + [False] * (3 + 3)  # 12 and 11 images in batches of 5
    assert [is_training for _, is_training, _ in loop.model.seen] == epoch * EPOCHS
    assert int(loop.model.norm.num_batches_tracked) == TOTAL


def test_the_tracker_is_told_after_the_folder(build: Build) -> None:
    loop = build(checkpoint_every=1, log_every=1)
    told = []

    class Asks(NullTracker):
        def log(self, history: list[Row]) -> None:
            assert loop.folder.history() == history
            checkpoint = loop.folder.load_checkpoint()
            assert checkpoint is not None
            assert checkpoint["step"] == loop.step == history[-1]["step"]
            told.append(loop.step)

    loop.tracker = Asks(RunInfo("run", None, {}, loop.folder.path))
    loop.run()
    assert told == list(range(1, TOTAL + 1))


# -- divergence -----------------------------------------------------------------------------------


def poison(loop: Loop, value: float) -> Callable[[], None]:
    def act() -> None:
        with torch.no_grad():
            loop.model.head.bias[0] = value

    return act


@pytest.mark.parametrize("at", [1, 2, 4, 6])
@pytest.mark.parametrize("log_every", [1, 3, 100])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_its_step(
    build: Build, at: int, log_every: int
) -> None:
    loop = build(log_every=log_every, checkpoint_every=1)
    loop.progress = build.Stop(at, poison(loop, math.nan))
    after = at == STEPS  # then the evaluation sees it first
    expected = f"val/loss is nan after step {at}" if after else f"loss is nan at step {at + 1}"
    with pytest.raises(DivergedError, match=expected):
        loop.run()
    for row in loop.history:
        assert all(math.isfinite(value) for value in row.values())
        assert row["step"] <= at
    # Whatever was finite is kept, also of the window in which the run ended.
    assert bool(loop.history) == (at >= min(log_every, STEPS) or not after)
    if not after:
        assert loop.history[-1]["step"] == at


def test_infinity_is_divergence_too(build: Build) -> None:
    loop = build(log_every=1)
    loop.progress = build.Stop(2, poison(loop, -math.inf))
    with pytest.raises(DivergedError, match=r"training loss is (inf|nan) at step 3"):
        loop.run()


def test_a_learning_rate_beyond_all_bounds_diverges(build: Build) -> None:
    loop = build(optimizer={**SGD, "lr": 1e30}, grad_clip=None, log_every=1)
    with pytest.raises(DivergedError, match=r"(loss is (nan|inf)|val/loss is) .*step \d+"):
        loop.run()
    assert loop.step <= 4


# -- precision, memory format, compilation ---------------------------------------------------------


def test_bf16_is_autocast_with_float32_parameters(build: Build) -> None:
    loop = ran(build(precision="bf16"))
    assert {dtype for dtype, _, _ in loop.model.seen} == {torch.bfloat16}
    assert {p.dtype for p in loop.model.parameters()} == {torch.float32}
    exact = ran(build("exact"))
    assert {dtype for dtype, _, _ in exact.model.seen} == {torch.float32}
    first, second = loop.history[0]["train/loss"], exact.history[0]["train/loss"]
    assert first != second
    assert first == pytest.approx(second, rel=0.05)


def test_channels_last_inputs(build: Build) -> None:
    plain = build("plain")
    loop = build(memory_format=torch.channels_last)
    # Before any step: dropout draws in the order of memory.
    assert loop.evaluation.split("val") == pytest.approx(plain.evaluation.split("val"), rel=1e-5)
    ran(loop)
    assert all(channels_last for _, _, channels_last in loop.model.seen)
    ran(plain)
    assert not any(channels_last for _, _, channels_last in plain.model.seen)


def test_nothing_is_compiled_by_default(build: Build) -> None:
    loop = build()
    assert not loop.training_step.cold
    loop.run()
    assert loop.clock.seconds["compile"] == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compilation_has_a_clock_of_its_own(
    build: Build, monkeypatch: pytest.MonkeyPatch, parts: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(parts, "NoisyNet", softmax_regression)
    options = {"optimizer": SGD, "log_every": 1}
    plain = ran(build("plain", **options))
    loop = ran(build("compiled", compile=True, **options))
    seconds = loop.clock.seconds
    assert seconds["compile"] > 3 * seconds["step"] > 0
    expected = [row["train/loss"] for row in plain.history]
    assert [row["train/loss"] for row in loop.history] == pytest.approx(expected, rel=1e-4)
    # The checkpoint is that of the model, not of its compiled wrapper.
    assert loop.state_dict()["model"].keys() == plain.state_dict()["model"].keys()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bf16_and_channels_last_on_a_gpu_continue_where_they_stopped(build: Build) -> None:
    data = build.images().to("cuda")
    options = {
        "data": data,
        "precision": "bf16",
        "memory_format": torch.channels_last,
        "checkpoint_every": 1,
    }
    whole = build("whole", **options)
    whole.run()
    assert {dtype for dtype, _, _ in whole.model.seen} == {torch.bfloat16}
    assert all(channels_last for _, _, channels_last in whole.model.seen)
    assert next(whole.model.parameters()).device.type == "cuda"
    with pytest.raises(KeyboardInterrupt):
        build("stopped", stop=build.Stop(5), **options).run()
    rest = build("stopped", **options)
    assert rest.step == 4
    rest.run()
    # The GPU's own random state is continued: the same dropout, so nearly the same numbers.
    for found, expected in zip(rest.history, whole.history, strict=True):
        assert found.pop("joules", 0) >= 0 <= expected.pop("joules", 0)  # they are of this time
        assert found == pytest.approx(expected, rel=0.02, abs=0.02)


def test_a_run_on_the_cpu_keeps_no_random_state_of_a_gpu(build: Build) -> None:
    assert "random_cuda" not in build().state_dict()
