"""Which alpha each matrix of a SpectralNewton group gets: a number, by layer type, or measured."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from optimizers import checks
from optimizers.exponents import read_exponents
from optimizers.naming import plain_name
from optimizers.partition import LAYER_TYPES


def check_alpha(alpha: Any, exponents: str | None) -> None:
    """Raise ValueError unless ``alpha`` is a number > 0, a mapping to such, or "measured"."""
    if isinstance(alpha, Mapping):
        for key, value in alpha.items():
            checks.choice("layer type in alpha", key, (*LAYER_TYPES, "default"))
            checks.positive(f"alpha[{key}]", value)
    elif alpha == "measured":
        if exponents is None:
            raise ValueError(
                "alpha='measured' needs exponents: measure with "
                "`python -m analysis.curvature run=<run folder>` and pass "
                "exponents=<run folder>/exponents.parquet"
            )
    elif isinstance(alpha, str):
        raise ValueError(
            f"alpha must be a number > 0, a mapping by layer type, or 'measured'; got {alpha!r}"
        )
    else:
        checks.positive("alpha", alpha)


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
