"""Exact directional curvature by double backward: reverse mode over reverse mode.

Valid for every network and loss that autograd can differentiate twice, and the slowest engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from analysis.directions import Directions
from analysis.objective import Objective, gradients_of

CHUNK = 5  # directions at a time: fewer, larger kernels; memory grows with it


def double_backward(
    objective: Objective, directions: Mapping[str, Directions], report: Callable[[], None]
) -> dict[str, Tensor]:
    """Return h[layer] [k] float64 on the CPU; ``report`` is called after each layer of each part.

    Each microbatch builds one graph of all gradients; the directions pass back through it, some at
    a time, restricted to one layer: each costs 2 to 4 forward passes from that layer up.

    Raises:
        ValueError: a function of the network that has no second derivative.
    """
    totals = {
        name: torch.zeros(len(directions[name]), dtype=torch.float64) for name in objective.weights
    }
    for index in range(objective.microbatches):
        for layer, h in _microbatch(objective, index, directions, report).items():
            totals[layer] += h
    return totals


def _microbatch(
    objective: Objective,
    index: int,
    directions: Mapping[str, Directions],
    report: Callable[[], None],
) -> dict[str, Tensor]:
    """Return one microbatch's share of every h; its graph is freed on return."""
    weights = objective.weights
    shares = {}
    with objective.loss(index) as loss:
        gradients = gradients_of(loss, list(weights.values()))
        for layer, gradient in zip(weights, gradients, strict=True):
            shares[layer] = _along(gradient, weights[layer], directions[layer])
            report()
    return shares


def _along(gradient: Tensor, weight: nn.Parameter, directions: Directions) -> Tensor:
    """Return d^T (d gradient / d weight) d along each direction d, [k] float64 on the CPU."""
    if not gradient.requires_grad:  # the gradient is a constant: no curvature
        return torch.zeros(len(directions), dtype=torch.float64)
    left, right = directions.left.to(weight.device), directions.right.to(weight.device)
    h = []
    for u, v in zip(torch.split(left.T, CHUNK), torch.split(right.T, CHUNK), strict=True):
        along = torch.einsum("km,kn->kmn", u, v).reshape(-1, *weight.shape).to(weight.dtype)
        products = _products(gradient, weight, along).flatten(2).double()
        h.append(torch.einsum("km,kmn,kn->k", u, products, v))
    return torch.cat(h).cpu()


def _products(gradient: Tensor, weight: nn.Parameter, along: Tensor) -> Tensor:
    """Return H d of directions ``along`` [k, ...], by one backward pass that carries them all."""

    def product(directions: Tensor, batched: bool) -> Tensor:
        (found,) = torch.autograd.grad(
            gradient, weight, directions,
            retain_graph=True, materialize_grads=True, is_grads_batched=batched,
        )  # fmt: skip
        return found

    try:
        return product(along, batched=True).expand_as(along)  # zeros are of one direction
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # a function of the network's own that vmap can't carry them through
        return torch.stack([product(direction, batched=False) for direction in along])
