"""Which parameter is a hidden matrix, which is not, and what type of layer it belongs to.

A layer is named by its module (``model.named_modules()``), without the prefixes of a model that
torch.compile or DistributedDataParallel wraps. The head is the last ``nn.Linear`` in definition
order; the weights of the other Linear and Conv layers are the hidden matrices, which matrix
optimizers such as Muon transform. Everything else is left to AdamW, and so is a layer that embeds
its input (an ``nn.Embedding``, or a layer with "embed" in its name: ``patch_embedding``).

The matrices of a transformer block are known by their names: ``<attention>.qkv``, ``.output``,
``<mlp>.up``, ``.down``, and what torch, GPT-2 and timm call them. Any other Linear is "linear".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from optimizers import base
from optimizers.torch_private import ConvNd, named_modules, named_parameters

HIDDEN_TYPES = ("conv", "attention_qkv", "attention_output", "mlp_up", "mlp_down", "linear")
MEASURED_TYPES = (*HIDDEN_TYPES, "head")
LAYER_TYPES = (*MEASURED_TYPES, "embedding", "norm", "bias", "other")
ALGORITHMS = ("matrix", "adamw")

# Types of a Linear by its layer's name.
_TRANSFORMER_TYPES = {
    "attention_qkv": r"(attn|attention)\.(qkv|query|key|value|in_proj|[qkv]_proj|c_attn)",
    "attention_output": r"(attn|attention)\.(output|out_proj|o_proj|proj|c_proj)",
    "mlp_up": r"(mlp|ffn)\.(up|up_proj|fc1|c_fc)",
    "mlp_down": r"(mlp|ffn)\.(down|down_proj|fc2|c_proj)",
}


@dataclass(frozen=True)
class ParameterLabel:
    """Where a parameter sits: ``hidden`` says that it is one of the hidden matrices."""

    name: str
    layer: str
    layer_type: str
    hidden: bool


def label_parameters(
    model: nn.Module, overrides: Mapping[str, str] | None = None
) -> dict[str, ParameterLabel]:
    """Label every parameter, trainable or not, by its name in ``model.named_parameters()``.

    A weight shared by several layers keeps its first layer's name and is hidden only if it is so in
    each of them (an embedding tied to the head is not). ``overrides`` maps fnmatch patterns of
    parameter names to a layer type, or to "matrix" / "adamw", which move a parameter and keep its
    type; where two patterns match, the later one holds.

    Raises ValueError for a pattern that matches nothing, an unknown value, or a vector called
    "matrix".
    """
    head = _head(model)
    labels: dict[int, ParameterLabel] = {}
    for layer, module in named_modules(model):
        for key, parameter in module.named_parameters(recurse=False):
            is_head = module is head and key == "weight"
            layer_type = "head" if is_head else _layer_type(layer, module, key, parameter.ndim)
            hidden = layer_type in HIDDEN_TYPES
            first = labels.get(id(parameter))
            if first is None:
                name = f"{layer}.{key}" if layer else key
                labels[id(parameter)] = ParameterLabel(name, layer, layer_type, hidden)
            elif first.hidden and not hidden:
                labels[id(parameter)] = replace(first, layer_type=layer_type, hidden=False)
    by_name = {label.name: label for label in labels.values()}
    ndims = {name: parameter.ndim for name, parameter in named_parameters(model)}
    for pattern, value in (overrides or {}).items():
        _override(by_name, ndims, pattern, value)
    return by_name


def weight_layers(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of all Linear and Conv layers, the head included, by layer in definition order.

    These are the matrices that the curvature analysis measures; a weight that is computed from
    others (a parametrization) is not among them.
    """
    return {
        layer: module.weight
        for layer, module in named_modules(model)
        if isinstance(module, nn.Linear | ConvNd) and isinstance(module.weight, nn.Parameter)
    }


def hidden_matrices(
    model: nn.Module, overrides: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Two parameter groups: "matrix" with the hidden matrices, "adamw" with all others.

    Each is ``{"params": [(name, parameter), ...], "algorithm": ..., "layer_types": [...]}``, the
    layer types parallel to the parameters. Frozen parameters are left out, an empty group too.
    ``overrides`` as in :func:`label_parameters`.
    """
    labels = label_parameters(model, overrides)
    groups: dict[str, dict[str, Any]] = {
        algorithm: {"params": [], "algorithm": algorithm, "layer_types": []}
        for algorithm in ALGORITHMS
    }
    for name, parameter in named_parameters(model):
        if parameter.requires_grad:
            group = groups["matrix" if labels[name].hidden else "adamw"]
            group["params"].append((name, parameter))
            group["layer_types"].append(labels[name].layer_type)
    return _checked(model, [group for group in groups.values() if group["params"]])


def by_layer(model: nn.Module) -> list[dict[str, Any]]:
    """One parameter group a layer, in definition order; frozen parameters are left out.

    Each is ``{"params": [(name, parameter), ...], "layer": ..., "layer_type": ...}``; the type is
    that of the layer's weight.
    """
    labels = label_parameters(model)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in named_parameters(model):
        label = labels[name]
        if parameter.requires_grad:
            empty = {"params": [], "layer": label.layer, "layer_type": label.layer_type}
            group = groups.setdefault(label.layer, empty)
            group["params"].append((name, parameter))
            if group["layer_type"] == "bias":
                group["layer_type"] = label.layer_type
    return _checked(model, list(groups.values()))


def _head(model: nn.Module) -> nn.Module | None:
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linears[-1] if linears else None


def _layer_type(layer: str, module: nn.Module, key: str, ndim: int) -> str:
    if "norm" in type(module).__name__.lower():
        return "norm"
    if key.startswith("bias") or key.endswith("bias"):
        return "bias"
    embeds = "embed" in key or "embed" in layer.rpartition(".")[2]
    if embeds or isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if isinstance(module, ConvNd):
        return "conv"
    is_matrix = isinstance(module, nn.Linear | nn.MultiheadAttention) and ndim == 2
    return _matrix_type(layer, module) if is_matrix else "other"


def _matrix_type(layer: str, module: nn.Module) -> str:
    # It holds its query, key and value weights itself, stacked or not.
    if isinstance(module, nn.MultiheadAttention):
        return "attention_qkv"
    for layer_type, pattern in _TRANSFORMER_TYPES.items():
        if re.search(rf"(^|[._]){pattern}$", layer):
            return layer_type
    return "linear"


def _override(
    labels: dict[str, ParameterLabel], ndims: Mapping[str, int], pattern: str, value: str
) -> None:
    base.choice(f"overrides[{pattern!r}]", value, LAYER_TYPES + ALGORITHMS)
    matches = [name for name in labels if fnmatchcase(name, pattern)]
    if not matches:
        near = difflib.get_close_matches(pattern, labels, n=1, cutoff=0.0)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise ValueError(f"overrides: no parameter's name matches {pattern!r}{hint}")
    hidden = value == "matrix" or value in HIDDEN_TYPES
    for name in matches:
        if hidden and ndims[name] < 2:
            raise ValueError(f"overrides: {name!r} is a vector and cannot be {value!r}")
        layer_type = labels[name].layer_type if value in ALGORITHMS else value
        labels[name] = replace(labels[name], layer_type=layer_type, hidden=hidden)


def _checked(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prove that each trainable parameter is in exactly one group."""
    placed = sorted(id(parameter) for group in groups for _, parameter in group["params"])
    trainable = sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    assert placed == trainable, "each trainable parameter must be in exactly one group"
    return groups
