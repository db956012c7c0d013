"""Exact directional curvature by double backward: reverse mode over reverse mode.

Valid for every network and loss that autograd can differentiate twice, and the slowest engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from analysis.directions import Directions
from analysis.objective import Objective


def double_backward(
    objective: Objective, directions: Mapping[str, Directions], report: Callable[[], None]
) -> dict[str, Tensor]:
    """Return h[layer] [k] float64 on the CPU; ``report`` is called after each layer of each part.

    Each microbatch builds one graph of all gradients; every direction is one backward pass
    through it, restricted to one layer, so it costs 2 to 4 forward passes from that layer up.
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
        gradients = torch.autograd.grad(
            loss, list(weights.values()), create_graph=True, materialize_grads=True
        )
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
    for u, v in zip(left.T, right.T, strict=True):
        direction = torch.outer(u, v).reshape(weight.shape).to(weight.dtype)
        (product,) = torch.autograd.grad(
            gradient, weight, direction, retain_graph=True, materialize_grads=True
        )
        h.append(u @ product.flatten(1).double() @ v)
    return torch.stack(h).cpu()
