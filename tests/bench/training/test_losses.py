"""Cross-entropy with the classes last, against sums by hand in float64.

The losses of a window.

A failure of the optimizer's linear algebra is divergence only where the training is to blame.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench import config, train
from bench.files import read_json
from bench.training.losses import DivergedError, LossWindow, cross_entropy, loss_and_hits, symptom

SHAPES = [(6,), (4, 3)]  # images: a target a sample; tokens: one a position


def example(shape: tuple[int, ...], classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, classes, generator=stream, dtype=torch.float64)
    return logits, torch.randint(0, classes, shape, generator=stream)


def by_hand(logits: Tensor, targets: Tensor, smoothing: float) -> list[float]:
    """One loss a target, row by row."""
    classes = logits.shape[-1]
    losses = []
    for row, target in zip(logits.reshape(-1, classes), targets.flatten().tolist(), strict=True):
        log_p = row - row.exp().sum().log()
        wanted = torch.full((classes,), smoothing / classes, dtype=torch.float64)
        wanted[target] += 1 - smoothing
        losses.append(-float((wanted * log_p).sum()))
    return losses


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_mean_over_all_targets(shape: tuple[int, ...], smoothing: float) -> None:
    logits, targets = example(shape)
    losses = by_hand(logits, targets, smoothing)
    found = cross_entropy(logits, targets, smoothing)
    assert found.shape == ()
    assert float(found) == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_no_smoothing_by_default() -> None:
    logits, targets = example((6,))
    assert float(cross_entropy(logits, targets)) == float(cross_entropy(logits, targets, 0.0))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_sum_and_the_right_answers(shape: tuple[int, ...]) -> None:
    logits, targets = example(shape, seed=3)
    losses, hits = loss_and_hits(logits, targets)
    assert losses.dtype == torch.float32
    assert float(losses) == pytest.approx(sum(by_hand(logits, targets, 0.0)), rel=1e-6)
    assert int(hits) == int((logits.argmax(-1) == targets).sum())
    logits.scatter_(-1, targets[..., None], 100.0)
    assert int(loss_and_hits(logits, targets)[1]) == targets.numel()


def test_evaluation_in_half_precision_sums_in_float32() -> None:
    logits = torch.zeros(1000, 4, dtype=torch.bfloat16)
    losses, _ = loss_and_hits(logits, torch.zeros(1000, dtype=torch.int64))
    assert float(losses) == pytest.approx(1000 * torch.tensor(4.0).log().item(), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 5), length=st.integers(1, 5), seed=st.integers(0, 99))
def test_tokens_are_samples_side_by_side(batch: int, length: int, seed: int) -> None:
    logits, targets = example((batch, length), seed=seed)
    flat = cross_entropy(logits.reshape(batch * length, -1), targets.flatten(), 0.1)
    assert torch.equal(cross_entropy(logits, targets, 0.1), flat)


@pytest.mark.parametrize(
    ("logits", "targets"), [((4, 3), (3,)), ((4, 3, 5), (4, 5)), ((4,), (4,)), ((4, 3), (4, 3))]
)
def test_shapes_that_do_not_belong_together(
    logits: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"classes must be the last dimension"):
        cross_entropy(torch.zeros(logits), torch.zeros(targets, dtype=torch.int64))


CPU = torch.device("cpu")


def test_losses_are_copied_when_they_are_added() -> None:
    window = LossWindow(3, CPU)
    static = torch.tensor(0.5)  # overwritten by every step, as in a graph
    for value in (0.5, 0.25, 0.125):
        static.fill_(value)
        window.add(static)
    static.fill_(9.0)
    assert window.take() == [0.5, 0.25, 0.125]
    assert len(window) == 0
    assert window.take() == []


def test_a_window_grows() -> None:
    window = LossWindow(1, CPU)
    for value in range(5):
        window.add(torch.tensor(float(value)))
    assert window.take() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_values_are_a_copy_that_can_be_loaded() -> None:
    window, other = LossWindow(4, CPU), LossWindow(1, CPU)
    other.add(torch.tensor(7.0))
    for value in (1.5, 2.5):
        window.add(torch.tensor(value))
    values = window.values()
    window.take()
    window.add(torch.tensor(8.0))
    assert values.tolist() == [1.5, 2.5]
    other.load(values)
    other.add(torch.tensor(3.5))
    assert other.take() == [1.5, 2.5, 3.5]


def test_half_precision_losses_and_none() -> None:
    window = LossWindow(2, CPU)
    assert window.values().shape == (0,)
    window.add(torch.tensor(0.5, dtype=torch.bfloat16))
    assert window.values().dtype == torch.float32
    window.add(torch.tensor(float("nan")))
    assert window.take() == [0.5, pytest.approx(float("nan"), nan_ok=True)]


Act: TypeAlias = Callable[[list[nn.Parameter]], None]


@pytest.fixture
def model() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).requires_grad_(False))
    for parameter in model[0].parameters():
        parameter.grad = torch.ones_like(parameter)
    return model


def test_a_sound_training_has_no_symptom(model: nn.Module) -> None:
    assert symptom(model, 2.3, 1.0) is None
    assert symptom(model, 2.3, 23.0) is None
    assert symptom(model, math.inf, math.inf) is None  # nothing logged yet
    model[0].weight.grad.fill_(1e19)
    assert symptom(model, 2.3, 1.0) is None
    assert symptom(nn.Flatten(), 1.0, 1.0) is None  # without parameters


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows(model: nn.Module, bad: float) -> None:
    model[0].bias.grad[1] = bad
    assert symptom(model, 2.3, 1.0) == "gradients are not finite"
    model[1].weight.data[0, 0] = bad
    assert symptom(model, 2.3, 1.0) == "weights are not finite"
    assert "from 2.3 to" in str(symptom(nn.Flatten(), 2.3, abs(bad)))


def test_gradients_whose_squares_are_not_finite_show(model: nn.Module) -> None:
    model[0].weight.grad[0, 0] = -1e20
    assert symptom(model, 2.3, 1.0) == "gradients of up to 1e+20"
    model.double()
    assert symptom(model, 2.3, 1.0) is None  # there they are


def test_a_loss_of_ten_times_the_first_shows(model: nn.Module) -> None:
    found = symptom(model, 2.3, 23.1)
    assert found == "the training loss has gone from 2.3 to 23.1"


class Failing(torch.optim.SGD):
    """Fails as a decomposition does at step ``at``; ``act`` comes first, at step ``when``."""

    def __init__(self, model: nn.Module, at: int, act: Act | None = None, when: int = 0) -> None:
        super().__init__(model.parameters(), lr=1e-3)
        self.at, self.act, self.when, self.steps = at, act, when, 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        if self.act is not None and self.steps == self.when:
            self.act(self.param_groups[0]["params"])
        if self.steps == self.at:
            torch.linalg.cholesky(-torch.eye(2))  # raises LinAlgError
        return super().step(closure)


def explode(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad.mul_(1e30)


@torch.no_grad()
def spoil(parameters: list[nn.Parameter]) -> None:
    parameters[-1].fill_(math.nan)


@pytest.mark.parametrize(("at", "log_every"), itertools.product((1, 2, 4, 5), (1, 3)))
def test_a_run_whose_gradients_exploded_diverges(build: Any, at: int, log_every: int) -> None:
    loop = build(log_every=log_every)
    loop.training_step.optimizer = Failing(loop.model, at, explode, when=at)
    with pytest.raises(DivergedError) as caught:
        loop.run()
    text = str(caught.value)
    assert text.startswith(f"the optimizer's linear algebra failed at step {at}: gradients of up")
    assert "\n" not in text
    assert isinstance(caught.value.__cause__, torch.linalg.LinAlgError)
    # The last that is known of the run is kept.
    assert [row["step"] for row in loop.history][-1:] == ([at - 1] if at > 1 else [])


def test_weights_that_are_not_finite_are_named(build: Any) -> None:
    loop = build()
    loop.training_step.optimizer = Failing(loop.model, 2, spoil, when=1)
    with pytest.raises(DivergedError, match="failed at step 2: weights are not finite"):
        loop.run()


def test_a_loss_that_was_not_finite_before_comes_first(build: Any) -> None:
    loop = build(log_every=100)
    loop.training_step.optimizer = Failing(loop.model, 4, spoil, when=2)
    with pytest.raises(DivergedError, match=r"^training loss is nan at step 3$"):
        loop.run()


def test_a_loss_that_exploded_is_told_by_the_first(build: Any) -> None:
    loop = build(log_every=1)

    def grow(parameters: list[nn.Parameter]) -> None:
        with torch.no_grad():
            parameters[-1].copy_(1e4 * torch.arange(len(parameters[-1])))

    loop.training_step.optimizer = Failing(loop.model, 4, grow, when=2)
    with pytest.raises(DivergedError, match=r"step 4: the training loss has gone from \d"):
        loop.run()


@pytest.mark.parametrize("at", [1, 3])
def test_a_failure_in_a_sound_training_stays_an_error(build: Any, at: int) -> None:
    loop = build()
    loop.training_step.optimizer = Failing(loop.model, at)
    with pytest.raises(torch.linalg.LinAlgError):
        loop.run()


def test_other_errors_are_never_divergence(build: Any) -> None:
    loop = build()

    def fail(parameters: list[nn.Parameter]) -> None:
        explode(parameters)
        raise RuntimeError("something else")

    loop.training_step.optimizer = Failing(loop.model, 9, fail, when=1)
    with pytest.raises(RuntimeError, match="something else"):
        loop.run()


@pytest.mark.parametrize("name", ["shampoo", "shampoo_original"])
def test_shampoo_beyond_all_bounds_ends_as_diverged(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pytorch_optimizer")
    words = [f"optimizer={name}", "optimizer.lr=1e12", "model.width=2", "trainer.batch_size=400"]
    words += ["trainer.epochs=2", "trainer.progress=none", "trainer.threads=1", "tracker=none"]
    summary = train.train(config.load([*words, f"runs_dir={tmp_path}"]))
    assert summary["state"] == "diverged"
    (status,) = (read_json(path) for path in tmp_path.glob("*/status.json"))
    assert status is not None
    assert status["state"] == "diverged"
    assert "\n" not in status["cause"]
