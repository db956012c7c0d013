"""A failure of the optimizer's linear algebra is divergence only where the training is to blame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import nn

from bench import config, train
from bench.files import read_json
from bench.training.divergence import DivergedError, symptom

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
