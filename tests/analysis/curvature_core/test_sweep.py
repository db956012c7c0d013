"""Derivatives by forward convolutions against autograd's own, in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.curvature_core.directions import gradient_directions
from analysis.curvature_core.engines import curvature
from analysis.curvature_core.objective import Objective, Settings
from analysis.curvature_core.sweep import class_sweep, turn_convolutions
from optimizers.partition import weight_layers

TURNED: dict[str, nn.Module] = {
    "1d": nn.Conv1d(2, 3, 3, padding=1),
    "2d": nn.Conv2d(2, 3, 3, padding=1, bias=False),
    "unpadded": nn.Conv2d(2, 3, 3),
    "far padded": nn.Conv2d(2, 3, 3, padding=2),
    "one by one": nn.Conv2d(2, 5, 1),
    "oblong": nn.Conv2d(2, 3, (1, 4), padding=(0, 2)),
    "dilated": nn.Conv2d(2, 3, 3, padding=(1, 2), dilation=(2, 1)),
    "3d": nn.Conv3d(2, 3, (2, 3, 1), padding=(1, 1, 0)),
}
LEFT: dict[str, nn.Module] = {
    "strided": nn.Conv2d(2, 3, 3, stride=(1, 2)),
    "grouped": nn.Conv2d(2, 4, 3, groups=2),
    "reflecting": nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
    "same": nn.Conv2d(2, 3, 4, padding="same"),
    "padded beyond": nn.Conv2d(2, 3, 1, padding=1),
    "transposed": nn.ConvTranspose2d(2, 3, 3),
    "linear": nn.Linear(7, 7),
}


def derivative(module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor, Any]:
    leaf = inputs.clone().requires_grad_()
    outputs = module(input=leaf)
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2)).to(outputs)
    return outputs.detach(), torch.autograd.grad(outputs, leaf, weights)[0], outputs.grad_fn


@pytest.mark.parametrize("name", [*TURNED, *LEFT])
def test_same_outputs_and_derivatives(name: str) -> None:
    module = copy.deepcopy({**TURNED, **LEFT}[name]).double().requires_grad_(False)
    axes = {"1d": 1, "3d": 3}.get(name, 2)
    inputs = torch.randn(4, 2, *[7] * axes, generator=torch.Generator().manual_seed(1)).double()
    outputs, expected, _ = derivative(module, inputs)
    turn_convolutions(nn.Sequential(module))
    again, found, node = derivative(module, inputs)
    assert torch.equal(outputs, again)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=1e-12)
    assert ("_Convolution" in type(node).__name__) == (name in TURNED)


def test_a_second_derivative_is_refused() -> None:
    module = nn.Conv2d(2, 3, 3).double()
    turn_convolutions(module)
    leaf = torch.randn(1, 2, 5, 5).double().requires_grad_()
    errors = torch.ones(1, 3, 3, 3).double().requires_grad_()
    (slope,) = torch.autograd.grad(module(leaf), leaf, errors, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|not have been used in the graph"):
        torch.autograd.grad(slope.sum(), errors)


def test_the_sweep_is_as_exact_with_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(inplace=True), nn.Conv2d(5, 4, 2, dilation=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(4, 3),
    ).double().eval()  # fmt: skip
    data, double = (torch.randn(6, 2, 6, 6).double(), torch.randint(0, 3, (6,))), torch.float64
    layers = list(weight_layers(model))
    along = gradient_directions(model, F.cross_entropy, data, layers, 4)
    exact = curvature(
        model, F.cross_entropy, data, layers, along,
        engine="double_backward", settings=Settings(double),
    )  # fmt: skip
    objective = Objective(model, F.cross_entropy, data, layers, Settings(double, 4))
    turn_convolutions(objective.model)
    found = class_sweep(objective, along, lambda: None)
    for layer in layers:
        torch.testing.assert_close(found[layer], exact[layer], atol=1e-13, rtol=1e-10)
