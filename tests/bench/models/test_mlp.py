"""The multilayer perceptron."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from bench.models.mlp import MLP, one_hidden


def test_layer_names_and_shapes() -> None:
    model = MLP(3, 10, 4, hidden=[7, 5])
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "hidden.0.weight": (7, 48),
        "hidden.0.bias": (7,),
        "hidden.1.weight": (5, 7),
        "hidden.1.bias": (5,),
        "head.weight": (10, 5),
        "head.bias": (10,),
    }


def test_forward_against_numpy_in_float64() -> None:
    torch.manual_seed(0)
    model = MLP(1, 4, 3, hidden=[6, 5]).double()
    images = torch.randn(8, 1, 3, 3, dtype=torch.float64)
    features = images.numpy().reshape(8, 9)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    for layer in ("hidden.0", "hidden.1"):
        features = np.maximum(features @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"], 0)
    expected = features @ weights["head.weight"].T + weights["head.bias"]
    np.testing.assert_allclose(model(images).detach().numpy(), expected, rtol=1e-12, atol=1e-14)


def test_no_hidden_layer_is_softmax_regression() -> None:
    model = MLP(1, 10, 8, hidden=[])
    assert [name for name, _ in model.named_parameters()] == ["head.weight", "head.bias"]
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("width", [1, 64, 512])
def test_one_hidden_layer_of_any_width(width: int) -> None:
    shapes = {n: tuple(p.shape) for n, p in one_hidden(3, 10, 32, width=width).named_parameters()}
    assert shapes == {
        "hidden.0.weight": (width, 3072),
        "hidden.0.bias": (width,),
        "head.weight": (10, width),
        "head.bias": (10,),
    }


def test_one_hidden_layer_names_its_width_when_it_is_wrong() -> None:
    with pytest.raises(ValueError, match="width of mlp_one_hidden must be an integer of 1 or more"):
        one_hidden(3, 10, 32, width=0)


def test_hidden_may_come_from_a_config() -> None:
    config = OmegaConf.create({"hidden": [12, 6]})
    assert MLP(1, 10, 8, hidden=config.hidden).head.in_features == 6


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"hidden": [8, 0]}, r"hidden\[1\] of mlp must be an integer of 1 or more, not 0"),
        ({"hidden": [8.5]}, r"hidden\[0\] of mlp"),
        ({"hidden": [True]}, r"hidden\[0\] of mlp"),
        ({"hidden": 64}, "must be a list of widths"),
        ({"hidden": "64"}, "must be a list of widths"),
        ({"in_channels": 0}, "in_channels of mlp"),
        ({"num_classes": -1}, "num_classes of mlp"),
        ({"image_size": 0}, "image_size of mlp"),
    ],
)
def test_impossible_options_are_refused_in_one_line(options: dict, expected: str) -> None:
    arguments = {"in_channels": 1, "num_classes": 10, "image_size": 8} | options
    with pytest.raises(ValueError, match=expected) as caught:
        MLP(**arguments)
    assert "\n" not in str(caught.value)
