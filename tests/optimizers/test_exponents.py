from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optimizers.exponents import COLUMNS, LayerExponents, check_alpha, layer_alphas, read_exponents


def test_rows_become_layers(write_exponents: Callable[..., Path]) -> None:
    path = write_exponents(
        [
            {"layer": "conv1", "alpha": 1.5, "gamma": 0.8, "s": 1.1, "reliable": False},
            {"layer": "head", "layer_type": "head", "alpha": None},
        ]
    )
    exponents = read_exponents(str(path))
    assert list(exponents) == ["conv1", "head"]
    assert exponents["conv1"] == LayerExponents(1.5, 0.8, 1.1, False, "conv")
    assert math.isnan(exponents["head"].alpha)
    assert exponents["head"].layer_type == "head"
    assert exponents["head"].reliable is True


def test_the_latest_epoch_is_used(write_exponents: Callable[..., Path]) -> None:
    rows = [
        {"layer": "a", "alpha": float(epoch), "epoch": epoch, "step": 100 - int(epoch)}
        for epoch in (2.0, 9.5, 0.0)
    ]
    assert read_exponents(write_exponents(rows))["a"].alpha == 9.5
    steps = [{"layer": "a", "alpha": float(step), "step": step} for step in (7, 30, 2)]
    assert read_exponents(write_exponents(steps, drop=("epoch",)))["a"].alpha == 30.0
    once = [{"layer": "a"}, {"layer": "b"}]
    assert set(read_exponents(write_exponents(once, drop=("epoch", "step")))) == {"a", "b"}


def test_what_is_wrong_with_a_file_is_said(
    write_exponents: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.parquet; measure with `python -m anal"):
        read_exponents(tmp_path / "absent.parquet")
    with pytest.raises(FileNotFoundError):
        read_exponents(tmp_path)
    garbage = tmp_path / "garbage.parquet"
    garbage.write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match=r"garbage\.parquet is not a readable Parquet file"):
        read_exponents(garbage)
    with pytest.raises(ValueError, match="more than one row for layer 'a'"):
        read_exponents(write_exponents([{"layer": "a"}, {"layer": "a"}]))
    with pytest.raises(ValueError, match="has no rows"):
        path = write_exponents([{"layer": "a"}])
        import pyarrow.parquet as pq

        pq.write_table(pq.read_table(path).slice(0, 0), path)
        read_exponents(path)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(column: str, write_exponents: Callable[..., Path]) -> None:
    path = write_exponents([{"layer": "a"}], drop=(column,))
    with pytest.raises(ValueError, match=f"lacks the column {column};"):
        read_exponents(path)


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
        ("measured", r"needs exponents: .*spectral-bench curvature run="),
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
