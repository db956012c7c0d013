from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from optimizers.exponents import COLUMNS, LayerExponents, read_exponents


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


def test_optimizers_import_neither_pyarrow_nor_our_other_packages() -> None:
    program = (
        "import sys, optimizers, optimizers.partition, optimizers.exponents\n"
        "print([m for m in ('pyarrow', 'hydra', 'wandb', 'bench', 'analysis') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root
    )
    assert result.stdout.strip() == "[]"
