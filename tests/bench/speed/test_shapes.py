"""The weight shapes that optimizers are timed on."""

from __future__ import annotations

import pytest

from bench.errors import UserError
from bench.speed.shapes import skeleton
from optimizers.partition import hidden_matrices


def test_gpt2_small_has_the_published_number_of_parameters() -> None:
    model = skeleton("gpt2_small")
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808
    matrices, rest = hidden_matrices(model)
    shapes = {tuple(parameter.shape) for _, parameter in matrices["params"]}
    assert shapes == {(2304, 768), (768, 768), (3072, 768), (768, 3072)}
    assert len(matrices["params"]) == 48
    assert set(matrices["layer_types"]) == {
        *("attention_qkv", "attention_output", "mlp_up", "mlp_down")
    }
    assert (50257, 768) in {tuple(parameter.shape) for _, parameter in rest["params"]}


def test_models_of_the_config_are_built_as_they_are() -> None:
    model = skeleton("resnet18")
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962
    assert all(parameter.is_meta for parameter in model.parameters())


def test_an_unknown_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"model=gpt2: .*did you mean gpt2_small"):
        skeleton("gpt2")
