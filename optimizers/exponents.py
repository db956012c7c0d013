"""Measured exponents of a trained network: the file that flows back to training, and its use.

:func:`read_exponents` reads the file, one row a layer. :func:`check_alpha` and :func:`layer_alphas`
settle the alpha of each matrix of Spectral Newton: a number, one by layer type, or measured.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizers import base
from optimizers.partition import LAYER_TYPES
from optimizers.torch_private import plain_name

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
            "an exponents.parquet written by `spectral-bench curvature` is expected"
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


def check_alpha(alpha: Any, exponents: str | None) -> None:
    """Raise ValueError unless ``alpha`` is a number > 0, a mapping to such, or "measured"."""
    if isinstance(alpha, Mapping):
        for key, value in alpha.items():
            base.choice("layer type in alpha", key, (*LAYER_TYPES, "default"))
            base.positive(f"alpha[{key}]", value)
    elif alpha == "measured":
        if exponents is None:
            raise ValueError(
                "alpha='measured' needs exponents: measure with "
                "`spectral-bench curvature run=<run folder>` and pass "
                "exponents=<run folder>/exponents.parquet"
            )
    elif isinstance(alpha, str):
        raise ValueError(
            f"alpha must be a number > 0, a mapping by layer type, or 'measured'; got {alpha!r}"
        )
    else:
        base.positive("alpha", alpha)


def layer_alphas(group: dict[str, Any]) -> list[float]:
    """Alpha of each parameter of a matrix group, from its ``alpha`` as passed by check_alpha."""
    alpha = group["alpha"]
    if isinstance(alpha, Mapping):
        return _by_type(alpha, _parallel(group, "layer_types"))
    if alpha == "measured":
        return _measured(group, _parallel(group, "param_names"))
    return [float(alpha)] * len(group["params"])


def _parallel(group: dict[str, Any], key: str) -> list[str]:
    values: list[str] = group.get(key, [])
    if len(values) != len(group["params"]):
        raise ValueError(
            f"alpha={group['alpha']!r} needs groups with {key!r}: pass "
            "optimizers.partition.hidden_matrices(model) as the parameters"
        )
    return values


def _by_type(alpha: Mapping[str, float], layer_types: list[str]) -> list[float]:
    missing = sorted(set(layer_types) - set(alpha))
    if missing and "default" not in alpha:
        raise ValueError(f"alpha has no entry for {', '.join(missing)} and no default")
    return [float(alpha[kind if kind in alpha else "default"]) for kind in layer_types]


def _measured(group: dict[str, Any], names: list[str]) -> list[float]:
    exponents, fallback = read_exponents(group["exponents"]), float(group["fallback_alpha"])
    alphas = {}
    for name in names:
        layer = exponents.get(plain_name(name).removesuffix(".weight"))
        if layer is not None and layer.reliable and 0 < layer.alpha < math.inf:
            alphas[name] = layer.alpha
    unusable = [name for name in names if name not in alphas]
    if unusable:
        warnings.warn(
            f"no reliable alpha > 0 in {group['exponents']} for {len(unusable)} of {len(names)} "
            f"matrices, which use fallback_alpha={fallback}: {', '.join(unusable)}",
            stacklevel=2,
        )
    return [alphas.get(name, fallback) for name in names]
