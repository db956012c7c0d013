"""Measured exponents of a trained network, layer by layer: the file that flows back to training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMNS = ("layer", "layer_type", "alpha", "gamma", "s", "reliable")


@dataclass(frozen=True)
class LayerExponents:
    """Exponents of one layer: h ~ sigma^alpha, sigma_k ~ k^-gamma, h_k ~ k^-s (NaN: no fit)."""

    alpha: float
    gamma: float
    s: float
    reliable: bool
    layer_type: str


def read_exponents(path: str | Path) -> dict[str, LayerExponents]:
    """Read ``exponents.parquet``: one row a layer; of several epochs only the latest is used.

    Raises FileNotFoundError if there is no such file, and ValueError if it is not readable as
    Parquet, lacks one of COLUMNS, has no rows, or has two rows for a layer.
    """
    path = Path(path)
    how = "measure with `python -m analysis.curvature run=<run folder>`"
    if not path.is_file():
        raise FileNotFoundError(f"no exponents file at {path}; {how}")
    rows = _latest(_read_rows(path))
    if not rows:
        raise ValueError(f"{path} has no rows; {how}")
    exponents: dict[str, LayerExponents] = {}
    for row in rows:
        if row["layer"] in exponents:
            raise ValueError(f"{path} has more than one row for layer {row['layer']!r}")
        exponents[row["layer"]] = LayerExponents(
            alpha=_number(row["alpha"]),
            gamma=_number(row["gamma"]),
            s=_number(row["s"]),
            reliable=bool(row["reliable"]),
            layer_type=str(row["layer_type"]),
        )
    return exponents


def _read_rows(path: Path) -> list[dict[str, Any]]:
    # Late, so that the optimizers need pyarrow only where measured exponents are used.
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from error
    missing = [column for column in COLUMNS if column not in table.column_names]
    if missing:
        raise ValueError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            "an exponents.parquet written by `python -m analysis.curvature` is expected"
        )
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _latest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for key in ("epoch", "step"):
        times = [row[key] for row in rows if row.get(key) is not None]
        if times:
            rows = [row for row in rows if row.get(key) == max(times)]
    return rows


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
