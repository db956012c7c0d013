from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optimizers.layer_alphas import check_alpha, layer_alphas

NAMES = ["conv1.weight", "block.fc.weight", "extra"]


def group(alpha: Any, **more: Any) -> dict[str, Any]:
    params = [torch.ones(2, 2)] * 3
    return {"params": params, "alpha": alpha, "exponents": None, "fallback_alpha": 1.25, **more}


def test_a_number_is_every_layers() -> None:
    assert layer_alphas(group(3)) == [3.0, 3.0, 3.0]


def test_a_mapping_goes_by_layer_type_with_a_default() -> None:
    types = ["conv", "linear", "conv"]
    assert layer_alphas(group({"linear": 1, "default": 2.5}, layer_types=types)) == [2.5, 1.0, 2.5]
    assert layer_alphas(group({"linear": 1, "conv": 2}, layer_types=types)) == [2.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="no entry for linear and no default"):
        layer_alphas(group({"conv": 2.0}, layer_types=types))


@pytest.mark.parametrize("alpha", [{"default": 2.0}, "measured"])
def test_unlabelled_groups_say_what_to_pass(alpha: Any) -> None:
    with pytest.raises(ValueError, match=r"optimizers\.partition\.hidden_matrices"):
        layer_alphas(group(alpha, exponents="unread"))
    with pytest.raises(ValueError, match=r"optimizers\.partition\.hidden_matrices"):
        layer_alphas(group(alpha, layer_types=["conv"], param_names=["a.weight"]))


def test_measured_alphas_with_a_stated_fallback(write_exponents: Callable[..., Path]) -> None:
    path = write_exponents([{"layer": "conv1", "alpha": 1.75}, {"layer": "block.fc", "alpha": 0.6}])
    measured = group("measured", exponents=str(path), param_names=NAMES)
    with pytest.warns(UserWarning, match=r"1 of 3 matrices, .*fallback_alpha=1.25: extra$"):
        assert layer_alphas(measured) == [1.75, 0.6, 1.25]


@pytest.mark.parametrize(
    "bad",
    [
        {"alpha": -0.5},
        {"alpha": 0.0},
        {"alpha": math.nan},
        {"alpha": math.inf},
        {"alpha": None},
        {"reliable": False},
    ],
)
def test_an_unusable_alpha_falls_back(bad: dict[str, Any], write_exponents: Any) -> None:
    path = write_exponents(
        [{"layer": "conv1", **bad}, {"layer": "block.fc"}, {"layer": "extra", "alpha": 3.0}]
    )
    measured = group("measured", exponents=str(path), param_names=NAMES)
    with pytest.warns(UserWarning, match=r"1 of 3 .*: conv1\.weight$"):
        assert layer_alphas(measured) == [1.25, 2.0, 3.0]


def test_no_warning_where_all_are_measured(write_exponents: Callable[..., Path]) -> None:
    path = write_exponents([{"layer": name} for name in ("conv1", "block.fc", "extra")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer_alphas(group("measured", exponents=str(path), param_names=NAMES))


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        (0, "alpha must be > 0"),
        (-2.0, "alpha must be > 0"),
        (math.nan, "alpha must be a finite number"),
        ("mesured", "alpha must be a number > 0, a mapping by layer type, or 'measured'"),
        ("measured", r"needs exponents: .*python -m analysis\.curvature run="),
        ({"convolution": 2.0}, "layer type in alpha must be one of conv, attention_qkv, .*default"),
        ({"conv": 0.0}, r"alpha\[conv\] must be > 0"),
        (None, "alpha must be a finite number"),
    ],
)
def test_impossible_alphas_are_refused(alpha: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_alpha(alpha, None)


def test_possible_alphas_pass() -> None:
    for alpha in (1, 2.5, {"conv": 2.0, "default": 1}, {}):
        check_alpha(alpha, None)
    check_alpha("measured", "some/file")
