"""K-FAC against its plain rule, its state and hooks, and the groups it takes."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layer_rows import recorded
from torch import Tensor, nn
from transfer_cases import random_matrix

from optimizers import reference
from optimizers.kfac import KFAC, damped_inverse, layers
from optimizers.reference import KfacLayer

PLAIN = {"momentum": 0.0, "kl_clip": None, "inverse_every": 1}


class Net(nn.Module):
    """A padded convolution with a bias, one without, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 2, 2, stride=2, bias=False)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.second(torch.tanh(self.first(inputs))))
        return self.head(hidden.flatten(1))


class Run:
    """A network, a batch, and an optimizer that steps all of it."""

    def __init__(self, dtype: torch.dtype = torch.float64, **options: Any) -> None:
        torch.manual_seed(0)
        self.net = Net().to(dtype)
        self.inputs, self.labels = torch.randn(9, 2, 4, 4).to(dtype), torch.arange(9) % 3
        self.optimizer = KFAC(layers(self.net), **options)

    def backward(self, scale: float = 1.0) -> float:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.net(scale * self.inputs).float(), self.labels)
        loss.backward()
        return loss.item()

    def step(self, count: int = 1) -> float:
        for _ in range(count):
            loss = self.backward()
            self.optimizer.step()
        return loss

    def weights(self) -> dict[str, Tensor]:
        return {name: param.detach().clone() for name, param in self.net.named_parameters()}


def joined(module: nn.Module, gradient: bool = False) -> Tensor:
    """[W, bias] of a layer, or its gradient."""
    params = [param.grad if gradient else param.detach() for param in module.parameters()]
    return torch.cat([param.reshape(len(param), -1) for param in params], 1)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.3, "damping": 1e-3, **PLAIN},
        {"lr": 0.3, "damping": 0.1, **PLAIN},
        {"lr": 0.1, **PLAIN, "momentum": 0.9, "weight_decay": 0.5},
        {"lr": 0.5, **PLAIN, "kl_clip": 1e-4},
        {"lr": 0.5, **PLAIN, "kl_clip": 1e9},
        {"lr": 0.1, "decay": 0.8, "factor_every": 2, "inverse_every": 3},
    ],
)
def test_seven_steps_are_the_plain_rule(options: dict[str, Any]) -> None:
    run = Run(**options)
    modules = {name: module for name, module in run.net.named_modules() if name}
    plain = [KfacLayer.start(joined(m), m.bias is not None) for m in modules.values()]
    with recorded(modules) as recording:
        for step in range(7):
            run.backward()
            rows = recording.rows(homogeneous=True).values()
            batch = [(a, len(run.inputs) * delta) for a, delta in rows]  # of each sample's own loss
            gradients = [joined(module, gradient=True) for module in modules.values()]
            reference.kfac(plain, gradients, batch, step, **options)
            run.optimizer.step()
            for module, layer in zip(modules.values(), plain, strict=True):
                state = run.optimizer.state[module.weight]
                torch.testing.assert_close(state["input_factor"], layer.A)
                torch.testing.assert_close(state["output_inverse"], layer.D_inverse)
                torch.testing.assert_close(joined(module), layer.W)


def test_a_sum_of_losses_is_told_by_reduction() -> None:
    mean, total = Run(lr=0.1, **PLAIN), Run(lr=0.1, reduction="sum", **PLAIN)
    mean.step()
    F.cross_entropy(total.net(total.inputs).float(), total.labels, reduction="sum").backward()
    total.optimizer.step()
    for net in (mean.net, total.net):
        assert net.head.weight.grad is not None
    key = "output_factor"
    factors = [run.optimizer.state[run.net.head.weight][key] for run in (mean, total)]
    torch.testing.assert_close(*factors)


# -- state and hooks ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_an_interrupted_run_continues_bit_for_bit(dtype: torch.dtype, at: int) -> None:
    options = {"lr": 0.1, "factor_every": 2, "inverse_every": 3}
    run = Run(dtype, **options)
    run.step(at)
    stream = io.BytesIO()
    torch.save((run.net.state_dict(), run.optimizer.state_dict()), stream)
    run.step(5)
    stream.seek(0)
    weights, state = torch.load(stream, weights_only=True)
    rest = Run(dtype, **options)
    rest.net.load_state_dict(weights)
    rest.optimizer.load_state_dict(state)
    rest.step(5)
    for name, weight in run.weights().items():
        assert torch.equal(weight, rest.weights()[name])
    wide = torch.promote_types(dtype, torch.float32)
    for key in ("input_factor", "output_inverse"):
        ours, theirs = (r.optimizer.state[r.net.first.weight][key] for r in (run, rest))
        assert ours.dtype == wide
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_has_the_state_and_gathers_no_factors(how: Callable[[Any], Any]) -> None:
    run = Run(lr=0.1)
    run.step(2)
    net, optimizer = how((run.net, run.optimizer))
    state = optimizer.state[net.head.weight]
    before = state["input_factor"].clone()
    F.cross_entropy(net(run.inputs).float(), run.labels).backward()
    optimizer.step()
    assert torch.equal(state["input_factor"], before)
    run.step()
    assert not torch.equal(run.optimizer.state[run.net.head.weight]["input_factor"], before)


def test_a_forward_pass_in_between_leaves_no_trace() -> None:
    run, disturbed = Run(lr=0.1), Run(lr=0.1)
    for _ in range(3):
        run.step()
        with torch.no_grad():
            disturbed.net(100 * disturbed.inputs)
        disturbed.net(100 * disturbed.inputs)
        disturbed.step()
    for name, weight in run.weights().items():
        assert torch.equal(weight, disturbed.weights()[name])


def test_steps_without_factors_take_the_gradient() -> None:
    run = Run(lr=0.1, **PLAIN)
    before = run.weights()
    for param in run.net.parameters():
        param.grad = torch.ones_like(param)
    run.optimizer.step()
    for name, weight in run.weights().items():
        torch.testing.assert_close(weight, before[name] - 0.1)


def test_a_missing_gradient_of_weight_or_bias() -> None:
    run = Run(lr=0.1, **PLAIN)
    run.backward()
    run.net.head.weight.grad = None
    run.net.first.bias.grad = None
    before = run.weights()
    run.optimizer.step()
    after = run.weights()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"first.weight", "second.weight", "head.bias"}
    assert run.net.head.weight not in run.optimizer.state


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_make_the_same_steps(memory_format: torch.memory_format) -> None:
    run, other = Run(), Run()
    other.net.to(memory_format=memory_format)
    other.inputs = other.inputs.to(memory_format=memory_format)
    run.step(3)
    other.step(3)
    for name, weight in run.weights().items():
        torch.testing.assert_close(weight, other.weights()[name])


def test_a_diverged_network_shows_and_does_not_crash() -> None:
    run = Run(torch.float32, lr=0.1)
    run.step()
    run.backward(scale=math.inf)
    run.optimizer.step()
    assert run.net.head.weight.isnan().any()


# -- groups ---------------------------------------------------------------------------------------


def test_groups_of_a_transformer(transformer: type[nn.Module]) -> None:
    tied = layers(transformer(tied=True))
    assert [group.get("layer") for group in tied] == ["block.linear1", "block.linear2", None]
    net = transformer()
    groups = layers(net)
    names = ["block.linear1", "block.linear2", "head", None]
    assert [group.get("layer") for group in groups] == names
    held = [name for group in groups for name, _ in group["params"]]
    assert sorted(held) == sorted(name for name, _ in net.named_parameters())
    assert [group["algorithm"] for group in groups] == ["matrix"] * 3 + ["adamw"]


def test_grouped_convolutions_and_frozen_layers_are_left_out(conv_net: type[nn.Module]) -> None:
    net = conv_net()
    net.hidden.weight.requires_grad_(False)
    net.head.bias.requires_grad_(False)
    groups = layers(net)
    assert [group.get("layer") for group in groups] == ["conv1", "head", None]
    assert [name for name, _ in groups[1]["params"]] == ["head.weight"]
    rest = [name for name, _ in groups[-1]["params"]]
    assert rest == ["temperature", "norm.weight", "norm.bias", "conv2.weight", "hidden.bias"]
    for param in net.parameters():
        param.requires_grad_(False)
    assert layers(net) == []


def test_a_frozen_bias_stays_while_its_weight_moves() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2))
    net[0].bias.requires_grad_(False)
    optimizer = KFAC(layers(net), lr=0.1)
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
    assert torch.equal(net[0].bias, before["0.bias"])
    assert not torch.equal(net[0].weight, before["0.weight"])


def test_what_is_refused() -> None:
    net = Net()
    with pytest.raises(ValueError, match=r"optimizers\.kfac\.layers"):
        KFAC([{"params": list(net.parameters())}])
    assert not net.head._forward_hooks


# -- the damped inverse ---------------------------------------------------------------------------


@pytest.mark.parametrize("damping", [1e-6, 1e-2, 10.0])
def test_the_damped_inverse(damping: float) -> None:
    root = random_matrix(6, 4)
    matrix = root @ root.T
    expected = torch.linalg.inv(matrix + damping * torch.eye(6).double())
    torch.testing.assert_close(damped_inverse(matrix, damping), expected)
    assert damped_inverse(matrix.fill_(math.nan), damping).isnan().all()


def test_an_indefinite_matrix_counts_its_negative_eigenvalues_as_zero() -> None:
    basis = torch.linalg.qr(random_matrix(4, 4)).Q
    values = torch.tensor([3.0, 1.0, 0.0, -0.5]).double()
    found = damped_inverse((basis * values) @ basis.T, 0.1)
    torch.testing.assert_close(found, (basis / (values.clamp(min=0) + 0.1)) @ basis.T)
