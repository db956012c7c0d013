from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from optimizers import SpectralNewton
from optimizers.partition import hidden_matrices

SHAPES = [(6, 6), (9, 4), (4, 9), (5, 2, 3, 1), (6, 6)]


def weights(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]


def give_gradients(params: list[nn.Parameter], step: int, size: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in params:
        param.grad = size * torch.randn(param.shape, generator=generator).to(param.dtype)


def test_frobenius_updates_have_muons_size_whatever_the_gradients() -> None:
    for size in (1e-20, 1.0, 1e12):
        params = weights(torch.float32)
        before = [param.detach().clone() for param in params]
        give_gradients(params, 0, size)
        SpectralNewton(params, lr=1.0).step()
        for param, start in zip(params, before, strict=True):
            rows, cols = start.flatten(1).shape
            expected = math.sqrt(min(rows, cols) * max(1, rows / cols))
            assert (start - param.detach()).norm().item() == pytest.approx(expected, rel=1e-5)


def test_bfloat16_weights_get_the_float32_update_of_their_momentum() -> None:
    low = weights(torch.bfloat16)
    high = [nn.Parameter(param.detach().float()) for param in low]
    give_gradients(low, 0)
    for param, exact in zip(low, high, strict=True):
        assert param.grad is not None
        exact.grad = param.grad.float()
    # momentum 0 makes the momentum exactly the gradient in both.
    SpectralNewton(low, lr=0.1, momentum=0.0).step()
    SpectralNewton(high, lr=0.1, momentum=0.0).step()
    for param, exact in zip(low, high, strict=True):
        assert torch.equal(param, exact.bfloat16())


@pytest.mark.parametrize("how", ["by type", "measured"])
def test_each_layer_is_stepped_with_its_own_alpha(
    how: str, conv_net: type[nn.Module], write_exponents: Callable[..., Path]
) -> None:
    torch.manual_seed(0)
    model = conv_net().double()
    options: dict[str, Any] = {"alpha": {"conv": 2.0, "default": 1.0}}
    if how == "measured":
        rows = [
            {"layer": n, "alpha": a} for n, a in [("conv1", 2.0), ("conv2", 2.0), ("hidden", 1.0)]
        ]
        options = {"alpha": "measured", "exponents": write_exponents(rows)}
    optimizer = SpectralNewton(hidden_matrices(model), lr=0.1, momentum=0.0, **options)
    assert optimizer.param_groups[0]["alphas"] == [2.0, 2.0, 1.0]
    for layer, alpha in [(model.conv1, 2.0), (model.conv2, 2.0), (model.hidden, 1.0)]:
        single = nn.Parameter(layer.weight.detach().clone())
        single.grad = torch.randn_like(single)
        layer.weight.grad = single.grad.clone()
        optimizer.step()
        layer.weight.grad = None
        SpectralNewton([single], lr=0.1, momentum=0.0, alpha=alpha).step()
        torch.testing.assert_close(layer.weight, single, rtol=1e-12, atol=1e-12)


def test_a_checkpoint_keeps_its_alphas_though_the_file_changes(
    conv_net: type[nn.Module], write_exponents: Callable[..., Path]
) -> None:
    def build() -> SpectralNewton:
        layers = hidden_matrices(conv_net())
        return SpectralNewton(layers, alpha="measured", exponents=path)

    path = write_exponents([{"layer": n, "alpha": 1.5} for n in ("conv1", "conv2", "hidden")])
    saved = build().state_dict()
    write_exponents([{"layer": n, "alpha": 3.0} for n in ("conv1", "conv2", "hidden")])
    resumed = build()
    assert resumed.param_groups[0]["alphas"] == [3.0] * 3
    resumed.load_state_dict(saved)
    assert resumed.param_groups[0]["alphas"] == [1.5] * 3
