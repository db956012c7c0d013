"""Measurements of several epochs in one pair of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.measure import files
from analysis.measure.files import add, stored
from analysis.measure.network import Measurement
from optimizers.exponents import read_exponents

HOW = {"directions": 2}


def measured(step: int, alpha: float = 1.0, **more: Any) -> Measurement:
    directions = pd.DataFrame({"layer": ["a", "a"], "k": [1, 2], "h": alpha, "step": step})
    row = {"layer": ["a"], "layer_type": "conv", "alpha": alpha, "gamma": 1.0, "s": 2.0}
    row |= {"reliable": True, "step": step, "epoch": step / 10, **more}
    return Measurement(directions, pd.DataFrame(row))


def test_epochs_come_in_order_whenever_measured(tmp_path: Path) -> None:
    for step, alpha in ((10, 1.0), (30, 3.0), (20, 2.0)):
        add(tmp_path, measured(step, alpha), HOW)
    curvature = pd.read_parquet(tmp_path / "curvature.parquet")
    assert curvature["step"].tolist() == [10, 10, 20, 20, 30, 30]
    assert curvature["k"].tolist() == [1, 2] * 3
    assert curvature["h"].tolist() == [1.0, 1, 2, 2, 3, 3]
    exponents = pd.read_parquet(tmp_path / "exponents.parquet")
    assert exponents["alpha"].tolist() == [1.0, 2.0, 3.0]
    assert read_exponents(tmp_path / "exponents.parquet")["a"].alpha == 3.0  # the latest


def test_a_step_measured_again_is_replaced(tmp_path: Path) -> None:
    for alpha in (1.0, 5.0):
        add(tmp_path, measured(10, alpha), {"directions": alpha})
    add(tmp_path, measured(20), HOW)
    exponents = pd.read_parquet(tmp_path / "exponents.parquet")
    assert exponents["alpha"].tolist() == [5.0, 1.0]
    _, metadata = files.read_table(tmp_path / "exponents.parquet") or pytest.fail()
    steps = {"10": {"directions": 5.0}, "20": HOW}
    assert metadata == {"format": files.FORMAT, "steps": steps}


def test_stored_needs_both_files_the_step_and_the_options(tmp_path: Path) -> None:
    assert stored(tmp_path, 10, HOW) is None
    add(tmp_path, measured(10, 4.0), HOW)
    add(tmp_path, measured(20), {"directions": 3})
    found = stored(tmp_path, 10, HOW)
    assert found is not None
    assert [len(table) for table in found] == [2, 1]
    assert found[1]["alpha"].tolist() == [4.0]
    assert stored(tmp_path, 10, HOW, ("kronecker",)) is None
    assert stored(tmp_path, 10, {"directions": 3}) is None
    assert stored(tmp_path, 20, HOW) is None
    assert stored(tmp_path, 30, HOW) is None
    (tmp_path / "curvature.parquet").unlink()
    assert stored(tmp_path, 10, HOW) is None


def test_files_of_another_format_are_replaced(tmp_path: Path) -> None:
    frame = measured(10).exponents
    for name in files.NAMES:
        files.write_table(frame, tmp_path / f"{name}.parquet", {"format": 1})
    assert stored(tmp_path, 10, HOW) is None
    add(tmp_path, measured(20, 2.0), HOW)
    assert pd.read_parquet(tmp_path / "exponents.parquet")["alpha"].tolist() == [2.0]


def test_columns_without_a_value_do_not_change_type(tmp_path: Path) -> None:
    """zeta_met is null at one epoch and true at another; a model's name is missing at one."""
    met = pd.array([None], dtype="boolean")
    add(tmp_path, measured(10, zeta_met=met, rank_model=None), HOW)
    met = pd.array([True], dtype="boolean")
    add(tmp_path, measured(20, zeta_met=met, rank_model="power_law"), HOW)
    table = pd.read_parquet(tmp_path / "exponents.parquet")
    assert table["zeta_met"].isna().tolist() == [True, False]
    assert bool(table["zeta_met"][1]) is True
    assert table["rank_model"][1] == "power_law"
