"""The blocks that a transformer's Hessian falls into: its parameters, and their roles.

All parameters of a network, flattened and joined in the order of ``model.named_parameters()``, are
one vector; a group is some of its entries. A fused projection of queries, keys and values (rows in
that order) is three groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optimizers.partition import label_parameters

_PROJECTIONS = ("query", "key", "value")
_BY_INITIAL = {name[0]: name for name in _PROJECTIONS}
_SHORT_ROLES = {"attention_output": "output"}


@dataclass(frozen=True)
class Group:
    """Some entries of the joined parameters: ``spans`` are half-open, ascending and disjoint."""

    name: str
    role: str
    spans: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """How many parameters these are."""
        return sum(stop - start for start, stop in self.spans)

    def take(self, joined: Tensor) -> Tensor:
        """Return this group's entries of ``joined`` [..., P], shape [..., size]."""
        return torch.cat([joined[..., start:stop] for start, stop in self.spans], dim=-1)

    def put(self, values: Tensor, total: int) -> Tensor:
        """Return [total], zero but for this group's entries, which are ``values`` [size]."""
        joined = values.new_zeros(total)
        at = 0
        for start, stop in self.spans:
            joined[start:stop] = values[at : at + stop - start]
            at += stop - start
        return joined


def by_parameter(model: nn.Module) -> list[Group]:
    """Return a group a parameter, in order; a fused projection's three parts are named apart.

    The role is query, key, value, output, mlp_up, mlp_down, norm, bias (of any layer but a norm),
    head, conv, linear, other, or an embedding's own name, such as patch_embedding.
    """
    labels = label_parameters(model)
    groups, start = [], 0
    for name, parameter in model.named_parameters():
        label = labels[name]
        size = parameter.numel()
        fused = f"{label.layer}.weight" in labels and _is_fused(model, label.layer)
        names = [f"{name}.{part}" for part in _PROJECTIONS] if fused else [name]
        for index, own in enumerate(names):
            role = _role(name, label.layer, label.layer_type, index if fused else None)
            step = size // len(names)
            groups.append(Group(own, role, ((start, start + step),)))
            start += step
    return groups


def by_role(groups: Sequence[Group]) -> list[Group]:
    """Join the groups of each role, in the order in which the roles first appear."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for group in groups:
        spans.setdefault(group.role, []).extend(group.spans)
    return [Group(role, role, tuple(sorted(own))) for role, own in spans.items()]


def _is_fused(model: nn.Module, layer: str) -> bool:
    """Whether a layer holds queries', keys' and values' rows, in this order."""
    module = model.get_submodule(layer)
    return (
        isinstance(module, nn.Linear)
        and layer.rpartition(".")[2] in ("qkv", "in_proj", "c_attn")
        and module.out_features == 3 * module.in_features
    )


def _role(name: str, layer: str, layer_type: str, part: int | None) -> str:
    if layer_type == "embedding":
        return (layer or name).rpartition(".")[2]
    if layer_type != "attention_qkv":
        return _SHORT_ROLES.get(layer_type, layer_type)
    if part is not None:
        return _PROJECTIONS[part]
    own = layer.rpartition(".")[2]
    return _BY_INITIAL.get(own[:1], layer_type) if own != "qkv" else layer_type
