"""The loop: what a step does, what is measured, and bits that survive any interruption."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.config import TrainerConfig
from bench.data.images import Augment, ImageData, Split
from bench.experiment import build_optimizer, build_schedule
from bench.loop import DivergedError, Loop
from bench.progress import Lines
from bench.run import Row, RunFolder
from bench.seeding import derive
from bench.tracking import NullTracker, RunInfo

ADAMW = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.01, "weight_decay": 0.1}
SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
MOMENTUM = {**SGD, "momentum": 0.9, "nesterov": True}
MUON = {
    "_target_": "optimizers.Muon",
    "_partial_": True,
    "params": {"_target_": "optimizers.partition.hidden_matrices", "_partial_": True},
    "lr": 0.02,
}
COSINE = {"_target_": "bench.schedules.cosine", "_partial_": True, "warmup": 0.3}
STEPS, EPOCHS = 4, 2  # batches an epoch; 35 images make 4 batches of 8 and a rest
TOTAL = STEPS * EPOCHS
AUGMENT = Augment(pad=1, flip=True)


def config(**changes: Any) -> TrainerConfig:
    values: dict[str, Any] = {
        "epochs": EPOCHS,
        "batch_size": 8,
        "eval_batch_size": 5,
        "label_smoothing": 0.1,
        "grad_clip": 1.0,
        "precision": "float32",
        "channels_last": False,
        "compile": False,
        "device": "cpu",
        "threads": 1,
        "log_every": 3,  # windows across epochs' ends and checkpoints
        "checkpoint_every": None,
        "progress": "none",
    }
    return TrainerConfig(**{**values, **changes})


def images(augment: Augment = AUGMENT) -> ImageData:
    stream = torch.Generator().manual_seed(7)

    def split(count: int) -> Split:
        pixels = torch.randint(0, 256, (count, 2, 5, 5), generator=stream, dtype=torch.uint8)
        return Split(pixels, torch.randint(0, 3, (count,), generator=stream))

    return ImageData("noise", 3, split(35), split(12), split(11), (0.5, 0.4), (0.3, 0.3), augment)


class Stop(Lines):
    """Progress that calls ``act`` once the run has made ``at`` steps in all."""

    def __init__(self, at: int, act: Callable[[], None], done: int = 0) -> None:
        super().__init__("run", EPOCHS, quiet=True)
        self.at, self.act, self.steps = at, act, done

    def advance(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            self.act()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def build(tmp_path: Path, parts: Any) -> Callable[..., Loop]:
    """Build a loop anew, as a process would, with the folder's checkpoint where there is one."""
    torch.set_num_threads(1)

    def make(
        name: str = "run",
        optimizer: dict[str, Any] = ADAMW,
        seed: int = 0,
        stop: Stop | None = None,
        data: ImageData | None = None,
        precision: str = "float32",
        memory_format: torch.memory_format = torch.contiguous_format,
        folder: RunFolder | None = None,
        **changes: Any,
    ) -> Loop:
        folder = folder or RunFolder(tmp_path / name)
        folder.path.mkdir(parents=True, exist_ok=True)
        data = data or images()
        torch.manual_seed(derive(seed, "init"))
        model = parts.NoisyNet(2, 3, 5).to(data.train.images.device, memory_format=memory_format)
        made = build_optimizer(optimizer, model)
        trainer = config(**changes)
        steps = data.steps_per_epoch(trainer.batch_size) * trainer.epochs
        schedule = build_schedule(COSINE, made, steps)
        torch.manual_seed(derive(seed, "noise"))
        loop = Loop(
            model=model,
            optimizer=made,
            schedule=schedule,
            data=data,
            config=trainer,
            seed=seed,
            precision=precision,
            memory_format=memory_format,
            folder=folder,
            tracker=NullTracker(RunInfo(name, None, {}, tmp_path)),
            progress=stop or Lines(name, trainer.epochs, quiet=True),
        )
        checkpoint = folder.load_checkpoint()
        if checkpoint is not None:
            loop.load_state_dict(checkpoint)
        return loop

    return make


Build = Callable[..., Loop]
Same = Callable[..., None]


def ran(loop: Loop) -> Loop:
    """Run at once after building: the next loop that is built seeds the noise anew."""
    loop.run()
    return loop


def history_file(loop: Loop) -> bytes:
    return (loop.folder.path / "history.jsonl").read_bytes()


# -- interruptions --------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint_every", [None, 1, 3])
@pytest.mark.parametrize("optimizer", [ADAMW, MOMENTUM, MUON], ids=["adamw", "sgd", "muon"])
def test_a_run_interrupted_at_any_step_ends_with_the_same_bits(
    build: Build, assert_same: Same, optimizer: dict[str, Any], checkpoint_every: int | None
) -> None:
    options = {"optimizer": optimizer, "checkpoint_every": checkpoint_every}
    whole = build("whole", **options)
    whole.run()
    for at in range(1, TOTAL + 1):
        name = f"stopped-{at}"
        with pytest.raises(KeyboardInterrupt):
            build(name, stop=Stop(at, interrupt), **options).run()
        rest = build(name, **options)
        every = checkpoint_every or STEPS
        # The step at which it stopped is lost: it was stopped before its checkpoint.
        assert rest.step == max((at - 1) // every * every, (at - 1) // STEPS * STEPS)
        rest.run()
        assert rest.step == TOTAL
        assert_same(rest.state_dict(), whole.state_dict(), name)
        assert rest.history == whole.history
        assert history_file(rest) == history_file(whole)
        shutil.rmtree(rest.folder.path)


def test_a_run_interrupted_at_every_step_in_turn(build: Build, assert_same: Same) -> None:
    whole = build("whole", checkpoint_every=1)
    whole.run()
    for at in range(2, TOTAL + 1):
        loop = build("stopped", checkpoint_every=1)
        assert loop.step == at - 2
        loop.progress = Stop(at, interrupt, done=loop.step)
        with pytest.raises(KeyboardInterrupt):
            loop.run()
    rest = build("stopped", checkpoint_every=1)
    rest.run()
    assert_same(rest.state_dict(), whole.state_dict())
    assert history_file(rest) == history_file(whole)


class DiesInCommit(RunFolder):
    """Stops between the history and the checkpoint of commit number ``at``."""

    at = 0

    def write_history(self, history: list[Row]) -> None:
        super().write_history(history)
        self.at -= 1
        if self.at == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", range(1, TOTAL + 1))
def test_rows_after_the_checkpoint_are_written_again(
    build: Build, assert_same: Same, tmp_path: Path, at: int
) -> None:
    whole = build("whole", checkpoint_every=1, log_every=1)
    whole.run()
    folder = DiesInCommit(tmp_path / "stopped")
    folder.at = at
    with pytest.raises(KeyboardInterrupt):
        build("stopped", folder=folder, checkpoint_every=1, log_every=1).run()
    assert len(folder.history()) == at  # a row more than the checkpoint knows
    rest = build("stopped", checkpoint_every=1, log_every=1)
    assert len(rest.history) == at - 1
    rest.run()
    assert_same(rest.state_dict(), whole.state_dict())
    assert history_file(rest) == history_file(whole)


def test_an_unreadable_checkpoint_costs_time_alone(build: Build, assert_same: Same) -> None:
    whole = build("whole", checkpoint_every=3)
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        build("torn", checkpoint_every=3, stop=Stop(7, interrupt)).run()
    path = whole.folder.path.parent / "torn" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="cannot be read"):
        rest = build("torn", checkpoint_every=3)
    assert rest.step == 4  # not 6
    rest.run()
    assert_same(rest.state_dict(), whole.state_dict())
    assert history_file(rest) == history_file(whole)


def test_a_run_stopped_after_its_last_checkpoint_has_nothing_left_to_do(
    build: Build, assert_same: Same
) -> None:
    whole = build()
    whole.run()
    again = build()
    again.run()
    assert_same(again.state_dict(), whole.state_dict())
    assert again.history == whole.history


def test_how_often_a_run_is_written_down_does_not_change_it(
    build: Build, assert_same: Same
) -> None:
    often = {"log_every": 1, "checkpoint_every": 1, "eval_batch_size": 3}
    rarely = {"log_every": 100, "checkpoint_every": None, "eval_batch_size": 100}
    runs = [ran(build("often", **often)), ran(build("rarely", **rarely))]
    states = [{**loop.state_dict(), "window": None} for loop in runs]
    assert_same(*states)
    last = [loop.history[-1] for loop in runs]
    for key in ("val/loss", "test/loss"):
        assert last[0][key] == pytest.approx(last[1][key], rel=1e-6)
    assert last[0]["val/accuracy"] == last[1]["val/accuracy"]


def test_the_clock_goes_on_and_the_checkpoint_holds_plain_things(build: Build) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(checkpoint_every=1, stop=Stop(5, interrupt)).run()
    rest = build(checkpoint_every=1)
    before = dict(rest.clock.seconds)
    assert before["step"] > 0
    assert before["evaluation"] > 0
    assert before["compile"] == 0
    rest.run()
    for phase in ("data", "step", "evaluation", "checkpoint"):
        assert rest.clock.seconds[phase] > before[phase]
    # weights_only loading is what reads it: tensors, numbers, strings and containers.
    path = rest.folder.path / "checkpoint.pt"
    assert torch.load(path, weights_only=True)["step"] == TOTAL


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
    plain = images(Augment())
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
        batches = list(loop.data.train_batches(loop.seed, epoch, 8))
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
        rate = lr * loop.schedule.lr_lambdas[0](step)
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
    loop.optimizer.register_step_pre_hook(
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
    assert loop._evaluate("val") == (
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
    loop.progress = Stop(at, poison(loop, math.nan))
    after = at == STEPS  # then the evaluation sees it first
    expected = f"val/loss is nan after step {at}" if after else f"loss is nan at step {at + 1}"
    with pytest.raises(DivergedError, match=expected):
        loop.run()
    for row in loop.history:
        assert all(math.isfinite(value) for value in row.values())
        assert row["step"] <= at
    assert bool(loop.history) == (at >= min(log_every, STEPS))


def test_infinity_is_divergence_too(build: Build) -> None:
    loop = build(log_every=1)
    loop.progress = Stop(2, poison(loop, -math.inf))
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
    assert loop._evaluate("val") == pytest.approx(plain._evaluate("val"), rel=1e-5)
    ran(loop)
    assert all(channels_last for _, _, channels_last in loop.model.seen)
    ran(plain)
    assert not any(channels_last for _, _, channels_last in plain.model.seen)


def test_nothing_is_compiled_by_default(build: Build) -> None:
    loop = build()
    assert loop.forward is loop.model
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
    data = images().to("cuda")
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
        build("stopped", stop=Stop(5, interrupt), **options).run()
    rest = build("stopped", **options)
    assert rest.step == 4
    rest.run()
    # The GPU's own random state is continued: the same dropout, so nearly the same numbers.
    for found, expected in zip(rest.history, whole.history, strict=True):
        assert found == pytest.approx(expected, rel=0.02, abs=0.02)


def test_the_data_decide_the_device(build: Build) -> None:
    loop = build()
    assert loop.device == torch.device("cpu")
    assert dataclasses.replace(loop.data, name="x").steps_per_epoch(8) == loop.steps_per_epoch
    assert "random_cuda" not in loop.state_dict()
