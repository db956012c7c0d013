"""What a step costs, against FLOPs counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import config
from bench.build import ImageShape, build_model, build_optimizer
from bench.training.accounting import bare_copy, ceiling, measure_cost, model_flops, time_optimizer

CPU = torch.device("cpu")


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 7, bias=False), nn.ReLU(), nn.Linear(7, 3))


def batch(size: int = 5, shape: tuple[int, ...] = (3, 2, 2), classes: int = 3) -> tuple[Any, Any]:
    return torch.randn(size, *shape), torch.randint(0, classes, (size,))


def test_two_layers_by_hand() -> None:
    # Forward of both, gradients of both weights, and of the second layer's input only.
    expected = 5 * 2 * (12 * 7 + 7 * 3 + 12 * 7 + 7 * 3 + 7 * 3)
    assert model_flops(two_layers(), batch()) == expected


def test_a_convolution_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 25, 3))
    convolution, head = 25 * 2 * 9 * 4, 100 * 3
    expected = 6 * 2 * (2 * convolution + 3 * head)
    assert model_flops(model, batch(6, (2, 5, 5))) == expected


def test_flops_grow_with_the_batch_and_not_with_its_content() -> None:
    model = build_model(config.load(["model=convnet"]).model, ImageShape(1, 10, 8))
    small, large = (model_flops(model, batch(size, (1, 8, 8), 10)) for size in (4, 12))
    assert large == 3 * small > 0


@pytest.mark.parametrize("name", ["adamw", "muon", "kfac", "schedule_free_adamw", "soap"])
def test_measuring_leaves_no_trace(name: str) -> None:
    component = config.load([f"optimizer={name}"]).optimizer
    torch.manual_seed(0)
    model = build_model(config.load(["model=convnet"]).model, ImageShape(1, 10, 8))
    optimizer = build_optimizer(component, model)  # K-FAC's hooks are on the original
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sample = batch(8, (1, 8, 8), 10)
    random = torch.get_rng_state()
    cost = measure_cost(model, lambda it: build_optimizer(component, it), sample)
    assert torch.equal(torch.get_rng_state(), random)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.grad is None for parameter in model.parameters())
    assert optimizer.state == {}
    assert cost.optimizer_seconds > 0
    assert (cost.optimizer_flops > 0) == (name in {"muon", "kfac", "soap"})


def test_muons_flops_by_hand() -> None:
    component = config.load(["optimizer=muon"]).optimizer
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))
    cost = measure_cost(model, lambda it: build_optimizer(component, it), batch())
    gram, square, product = 7 * 7 * 12, 7 * 7 * 7, 7 * 7 * 12
    assert cost.optimizer_flops == 5 * 2 * (gram + square + product)  # the head is AdamW's


def test_a_copy_has_no_hooks_and_no_gradients() -> None:
    model = two_layers()
    seen: list[Tensor] = []
    model[1].register_forward_hook(lambda *_: seen.append(torch.zeros(())))
    model(batch()[0]).sum().backward()
    replica = bare_copy(model)
    assert all(parameter.grad is None for parameter in replica.parameters())
    count = len(seen)
    replica(batch()[0])
    assert len(seen) == count
    assert torch.equal(replica[1].weight, model[1].weight)
    assert replica[1].weight is not model[1].weight
    model(batch()[0])
    assert len(seen) == count + 1  # the original keeps its hook


def test_a_slow_step_is_timed_once() -> None:
    class Slow(torch.optim.SGD):
        steps = 0

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            Slow.steps += 1

    model = two_layers()
    assert time_optimizer(Slow(model.parameters()), CPU, limit=0.0) > 0
    assert Slow.steps == 1


def test_the_ceiling_is_measured_once() -> None:
    first = ceiling(CPU, torch.float32)
    assert first > 1e8
    assert ceiling(CPU, torch.float32) == first


class Preparing(torch.optim.SGD):
    """SGD with a product in its first step alone; remembers whether each step was compiled."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.1)
        self.param_groups[0]["compile"] = True
        self.compiled: list[bool] = []

    def step(self, closure: Any = None) -> Any:
        if not self.compiled:
            torch.ones(4, 4) @ torch.ones(4, 4)
        self.compiled.append(self.param_groups[0]["compile"])
        return super().step(closure)


def test_the_first_step_is_not_counted_and_the_timed_ones_are_compiled() -> None:
    made: list[Preparing] = []

    def make(model: nn.Module) -> Preparing:
        made.append(Preparing(model))
        return made[-1]

    cost = measure_cost(two_layers(), make, batch())
    assert cost.optimizer_flops == 0
    counted, timed = made[0].compiled[:2], made[0].compiled[2:]
    assert counted == [False, False]
    assert timed and all(timed)
