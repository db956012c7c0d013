"""Products of the whole Hessian of a batch's mean loss with vectors, by double backward.

Exact for every network and loss that autograd can differentiate twice; BatchNorm in train mode
too, in one pass. torch.func is used nowhere: see the traps in docs/curvature.md.

All parameters of a network, flattened and joined in the order of ``model.named_parameters()``, are
one vector; a group is some of its entries. A fused projection of queries, keys and values (rows in
that order) is three groups. A transformer's Hessian falls into blocks by parameter, or by role.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.curvature_core.objective import Loss, Objective, Settings, gradients_of
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


CHUNK = 64  # rows of the dense Hessian a pass over the batch


class HessianProducts:
    """H v for the Hessian H [P, P] of the mean loss in all of a network's parameters.

    Args:
        model: the network; a private copy is measured, frozen parameters too.
        loss: (outputs, labels) -> mean over the samples.
        batch: (inputs, labels), the sample index first.
        settings: dtype, microbatch, mode and device.

    Raises:
        ValueError: as `analysis.curvature_core.objective.Objective`; or the loss or a gradient is
        not finite,
            or a function of the network has no second derivative.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batch: tuple[Tensor, Tensor],
        settings: Settings | None = None,
    ) -> None:
        self._objective = Objective(model, loss, batch, [], settings)
        self.model = self._objective.model
        self._parameters = list(self.model.parameters())
        self._sizes = [parameter.numel() for parameter in self._parameters]
        self.size = sum(self._sizes)
        self.device, self.dtype = self._objective.device, self._objective.settings.dtype

    def __call__(self, vectors: Tensor, tick: Callable[[], None] | None = None) -> Tensor:
        """Return H v of each row v of ``vectors`` [V, P], in the measurement's dtype, [V, P].

        One graph of gradients a microbatch serves all rows; ``tick`` is called after each product.
        """
        vectors = vectors.to(self.device, self.dtype)
        products = torch.zeros_like(vectors)
        for index in range(self._objective.microbatches):
            with self._objective.loss(index) as loss:
                gradients = self._gradients(loss)
                for row, vector in enumerate(vectors):
                    products[row] += self._product(gradients, vector)
                    if tick is not None:
                        tick()
        return products

    @property
    def microbatches(self) -> int:
        """How many passes a product takes."""
        return self._objective.microbatches

    def _gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        gradients = gradients_of(loss, self._parameters)
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            raise ValueError("the gradient is not finite (a diverged network has no curvature)")
        return gradients

    def _product(self, gradients: tuple[Tensor, ...], vector: Tensor) -> Tensor:
        parts = [
            part.view_as(parameter)
            for part, parameter in zip(
                torch.split(vector, self._sizes), self._parameters, strict=True
            )
        ]
        pairs = [(g, v) for g, v in zip(gradients, parts, strict=True) if g.requires_grad]
        products = torch.autograd.grad(
            [gradient for gradient, _ in pairs],
            self._parameters,
            [part for _, part in pairs],
            retain_graph=True,
            materialize_grads=True,
        )
        return torch.cat([product.flatten() for product in products])


def dense_hessian(
    products: HessianProducts, progress: Callable[[int, int], None] | None = None
) -> Tensor:
    """Return the whole Hessian [P, P] on the CPU, in the measurement's dtype: P products.

    Rows are products with unit vectors, so that H[i, j] and H[j, i] are computed apart, and their
    difference is the rounding.
    """
    size, done = products.size, 0
    total = size * products.microbatches
    hessian = torch.empty(size, size, dtype=products.dtype)

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    for start in range(0, size, CHUNK):
        rows = torch.arange(start, min(start + CHUNK, size))
        units = torch.zeros(len(rows), size, dtype=products.dtype)
        units[torch.arange(len(rows)), rows] = 1
        hessian[rows] = products(units, tick).cpu()
    return hessian
