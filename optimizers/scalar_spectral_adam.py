"""Scalar-spectral Adam: Adam with one learning rate a layer, from measured exponents."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimizers import base
from optimizers.exponents import LayerExponents, read_exponents
from optimizers.matrix_optimizer import Params
from optimizers.partition import MEASURED_TYPES
from optimizers.torch_private import plain_name

MODES = ("spectral", "inverse", "random")


class ScalarSpectralAdam(torch.optim.Adam):
    """Adam, the learning rate of layer l being::

        eta_l = eta (s_l / s_bar)^beta,   s_l = alpha_l gamma_l

    with alpha_l and gamma_l measured on a trained network (``exponents``, a file written by
    ``spectral-bench curvature``) and s_bar the mean of s_l over the model's usable layers. The
    bias of a layer shares its rate. A layer without a usable measurement (missing, s_l <= 0, or not
    finite) keeps eta; one warning names those whose weight should have had one.

    ``mode``: "spectral" as above; two controls: "inverse" takes (s_l / s_bar)^-beta, and "random"
    draws each usable layer's factor log-uniformly between the smallest and the largest spectral
    factor, from ``seed``.

    ``params`` must name the layer of each parameter: groups with a key ``layer``
    (:func:`optimizers.partition.by_layer`) or ``model.named_parameters()``. Each group's ``lr`` is
    eta_l, which schedulers scale, and ``lr_factor`` is eta_l / eta.

    Raises ValueError for impossible hyperparameters, for unnamed parameters, and for a file none of
    whose layers is in the model; otherwise as :func:`optimizers.exponents.read_exponents`.
    Source: Calvo 2026 (arXiv 2606.02596), the scalar preconditioner eta_l ~ (s_l / s_bar)^beta.
    Compared with :func:`optimizers.reference.scalar_spectral_adam`.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        exponents: str | Path | None = None,
        beta: float = 1.0,
        mode: str = "spectral",
        seed: int = 0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        base.not_negative("lr", lr)
        base.not_negative("beta", beta)
        base.choice("mode", mode, MODES)
        base.positive("eps", eps)
        base.not_negative("weight_decay", weight_decay)
        first, second = base.numbers("betas", betas, 2)
        both = (base.fraction("betas[0]", first), base.fraction("betas[1]", second))
        if exponents is None:
            raise ValueError(
                "ScalarSpectralAdam needs exponents: measure with "
                "`spectral-bench curvature run=<run folder>` and pass "
                "exponents=<run folder>/exponents.parquet"
            )
        groups = _layer_groups(params)
        s = _usable_s(groups, read_exponents(exponents), exponents)
        factors = layer_factors(s, beta, mode, seed)
        for group in groups:
            group["lr_factor"] = factors.get(group["layer"], 1.0)
            group["lr"] = group.get("lr", lr) * group["lr_factor"]
        super().__init__(groups, lr=lr, betas=both, eps=eps, weight_decay=weight_decay)


def layer_factors(s: dict[str, float], beta: float, mode: str, seed: int) -> dict[str, float]:
    """Learning-rate factor of each layer from its s > 0; see :class:`ScalarSpectralAdam`."""
    if not s:
        return {}
    mean = sum(s.values()) / len(s)
    sign = -1.0 if mode == "inverse" else 1.0
    logs = {layer: sign * beta * math.log(value / mean) for layer, value in s.items()}
    if mode == "random":
        low, high = min(logs.values()), max(logs.values())
        draw = torch.Generator().manual_seed(seed)
        noise = torch.rand(len(logs), generator=draw, dtype=torch.float64, device="cpu").tolist()
        logs = {layer: low + (high - low) * u for layer, u in zip(logs, noise, strict=True)}
    return {layer: math.exp(value) for layer, value in logs.items()}


def _layer_groups(params: Params) -> list[dict[str, Any]]:
    """Copies of the given groups, or one group a layer out of named parameters."""
    items: list[Any] = list(params)
    if items and all(isinstance(item, dict) and "layer" in item for item in items):
        return [dict(item) for item in items]
    if not items or not all(isinstance(item, tuple) for item in items):
        raise ValueError(
            "ScalarSpectralAdam needs to know each parameter's layer: pass "
            "optimizers.partition.by_layer(model) or model.named_parameters()"
        )
    layers: dict[str, list[tuple[str, Tensor]]] = {}
    for name, param in items:
        layers.setdefault(plain_name(name).rpartition(".")[0], []).append((name, param))
    return [{"params": named, "layer": layer} for layer, named in layers.items()]


def _usable_s(
    groups: list[dict[str, Any]], exponents: dict[str, LayerExponents], path: str | Path
) -> dict[str, float]:
    """Find s = alpha gamma of each layer; warn once of the layers that have no usable one."""
    layers = [group["layer"] for group in groups]
    if not any(layer in exponents for layer in layers):
        raise ValueError(
            f"none of the {len(exponents)} layers in {path} is in this model (the file has "
            f"{next(iter(exponents))!r}, the model {layers[0]!r}): it was measured on another model"
        )
    s = {
        layer: exponents[layer].alpha * exponents[layer].gamma
        for layer in layers
        if layer in exponents
    }
    s = {layer: value for layer, value in s.items() if 0 < value < math.inf}
    unusable = [
        group["layer"]
        for group in groups
        if group["layer"] not in s and group.get("layer_type", "linear") in MEASURED_TYPES
    ]
    if unusable:
        warnings.warn(
            f"no usable s = alpha gamma > 0 in {path} for {len(unusable)} layers, which keep the "
            f"global learning rate: {', '.join(unusable)}",
            stacklevel=3,
        )
    return s
