"""Exact directional curvature by forward mode over reverse mode: the cross-check.

The derivative of the gradient along a direction, several directions at a time by vmap. That is the
one order of torch.func transforms that is right through layer_norm; a gradient of a forward product
and nested forward products are not (pytorch issues 196699 and 196700), and are used nowhere here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap

from analysis.directions import Directions
from analysis.objective import Objective

CHUNK = 4  # directions at a time; memory grows with it


def forward_over_reverse(
    objective: Objective, directions: Mapping[str, Directions], report: Callable[[], None]
) -> dict[str, Tensor]:
    """Return h[layer] [k] float64 on the CPU; ``report`` is called after each layer of each part.

    Raises:
        ValueError: BatchNorm in train mode, which writes its running statistics in every pass.
    """
    if objective.couples_samples:
        raise ValueError("BatchNorm in train mode writes its statistics under vmap")
    objective.model.requires_grad_(False)  # or a graph of all other weights would be kept
    totals = {
        name: torch.zeros(len(directions[name]), dtype=torch.float64) for name in objective.weights
    }
    for index in range(objective.microbatches):
        for name in objective.weights:
            totals[name] += torch.cat(list(_microbatch(objective, index, name, directions[name])))
            report()
    return totals


def _microbatch(
    objective: Objective, index: int, layer: str, directions: Directions
) -> Iterator[Tensor]:
    """Give one microbatch's share of h, some directions at a time."""
    weight = objective.weights[layer]
    left, right = directions.left.to(weight.device), directions.right.to(weight.device)
    for u, v in zip(torch.split(left.T, CHUNK), torch.split(right.T, CHUNK), strict=True):
        with objective.part(index) as (inputs, labels):  # anew: dropout has the same mask each time
            share = partial(_share, objective, layer, inputs, labels)
            yield _along(share, weight, u, v).cpu()


def _share(
    objective: Objective, layer: str, inputs: Tensor, labels: Tensor, weight: Tensor
) -> Tensor:
    """Return a microbatch's share of the loss as a function of one layer's weight."""
    key = f"{layer}.weight" if layer else "weight"
    outputs = functional_call(objective.model, {key: weight}, (inputs,))
    return objective.share(outputs, labels)


def _along(
    share: Callable[[Tensor], Tensor], weight: Tensor, left: Tensor, right: Tensor
) -> Tensor:
    """Return d^T H d of the directions u v^T, left [k, m] and right [k, n]."""

    def h(u: Tensor, v: Tensor) -> Tensor:
        direction = torch.outer(u, v).reshape(weight.shape).to(weight.dtype)
        product: Tensor = jvp(grad(share), (weight,), (direction,))[1]
        return u @ product.flatten(1).double() @ v

    along: Tensor = vmap(h, randomness="same")(left, right)
    return along
