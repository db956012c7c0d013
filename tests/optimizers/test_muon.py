from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from optimizers import Muon


def weights(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(8, 8), (12, 5), (5, 12), (8, 8)]
    return [nn.Parameter(torch.randn(*s, generator=generator).to(dtype)) for s in shapes]


def steps(params: list[nn.Parameter], optimizer: torch.optim.Optimizer, count: int = 4) -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(count):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        optimizer.step()


@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
def test_in_bfloat16_the_whole_optimizer_is_torchs(scale: str) -> None:
    """Both iterate in bfloat16 here; they may differ by its rounding and no more."""
    ours, theirs = weights(torch.bfloat16), weights(torch.bfloat16)
    steps(ours, Muon(ours, lr=0.02, scale=scale, weight_decay=0.1))
    steps(theirs, torch.optim.Muon(theirs, lr=0.02, adjust_lr_fn=scale, weight_decay=0.1))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0.016, atol=0.016)


@pytest.mark.parametrize("nesterov", [True, False])
def test_bfloat16_momentum_is_never_overwritten(nesterov: bool) -> None:
    """torch.optim.Muon normalises its momentum buffer in place for bfloat16 without Nesterov."""
    params = weights(torch.bfloat16)
    optimizer = Muon(params, nesterov=nesterov, momentum=0.5)
    expected = [torch.zeros_like(param) for param in params]
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        for param, buffer in zip(params, expected, strict=True):
            param.grad = 100 * torch.randn(param.shape, generator=generator).bfloat16()
            buffer.lerp_(param.grad, 0.5)
        optimizer.step()
        for param, buffer in zip(params, expected, strict=True):
            assert torch.equal(optimizer.state[param]["momentum_buffer"], buffer)


def test_weights_of_one_shape_are_stepped_as_if_alone() -> None:
    together, alone = weights(torch.float64), weights(torch.float64)
    steps(together, Muon(together))
    for i in range(len(alone)):
        params = copy.deepcopy(alone)
        steps(params, Muon([params[i]]))
        torch.testing.assert_close(params[i], together[i])


@pytest.mark.parametrize(("name", "value"), [("ns_steps", 2.5), ("ns_coefficients", (1.0, 2.0))])
def test_bad_hyperparameters_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        Muon(weights(torch.float32), **{name: value})
