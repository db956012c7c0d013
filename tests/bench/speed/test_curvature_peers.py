"""Networks on random data of the right shape."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.build import ImageShape, TokenShape
from bench.errors import UserError
from bench.speed.curvature_peers import subject

SHAPES = [ImageShape(3, 7, 8), TokenShape(11, 6, 11)]
CPU = torch.device("cpu")


def test_images_and_statistics() -> None:
    model, (inputs, targets), layers = subject("convnet", 64, SHAPES, CPU)
    assert inputs.shape == (64, 3, 8, 8)
    assert targets.shape == (64,)
    assert int(targets.max()) == 6
    assert not model.training
    assert "head" in layers
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(norm.momentum == 0.1 for norm in norms)
    seen = {}
    norms[-1].register_forward_hook(lambda *args: seen.update(out=args[2]))
    model(inputs)
    shifted = seen["out"].transpose(0, 1).flatten(1)
    torch.testing.assert_close(shifted.mean(1), torch.zeros(len(shifted)), atol=1e-2, rtol=0)
    torch.testing.assert_close(shifted.std(1), torch.ones(len(shifted)), atol=2e-2, rtol=0)


def test_the_same_each_time() -> None:
    one, two = (subject("mlp", 4, SHAPES, CPU) for _ in range(2))
    assert torch.equal(one.batch[0], two.batch[0])
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True)
    )


def test_unknown_models_are_refused() -> None:
    with pytest.raises(UserError, match="there is no such model"):
        subject("resnet", 4, SHAPES, CPU)
