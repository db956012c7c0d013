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
