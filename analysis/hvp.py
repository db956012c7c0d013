"""Exact directional curvature by double backward: reverse mode over reverse mode.

h_k = vec(u_k v_k^T)^T H vec(u_k v_k^T), H the exact Hessian of the mean loss in one layer's
weight. It is a Rayleigh quotient, not an eigenvalue, and it may be negative.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from analysis.directions import Directions
from analysis.objective import Batch, Loss, Objective, Settings


def curvature(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    layers: Iterable[str],
    directions: Mapping[str, Directions],
    *,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Return h[layer][k] along each layer's directions, [k] float64 on the CPU.

    Each microbatch builds one graph of all gradients; every direction is one backward pass
    through it, so the cost is (1 + number of directions) double passes through the batch.

    ``directions`` holds those of each layer, as `gradient_directions` gives them; ``progress`` is
    called with (done, total) after each layer of each microbatch; the other arguments are those of
    `analysis.objective.Objective`.

    Raises:
        ValueError: a layer without directions, directions of another shape than the layer's
            matrix, or what `Objective` refuses.
    """
    objective = Objective(model, loss, batch, layers, settings)
    for layer, weight in objective.weights.items():
        _check(layer, weight, directions)
    totals = {
        name: torch.zeros(len(directions[name]), dtype=torch.float64) for name in objective.weights
    }
    report = _counter(objective.microbatches * len(totals), progress)
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


def _counter(total: int, progress: Callable[[int, int], None] | None) -> Callable[[], None]:
    done = itertools.count(1)

    def report() -> None:
        if progress is not None:
            progress(next(done), total)

    return report


def _check(layer: str, weight: nn.Parameter, directions: Mapping[str, Directions]) -> None:
    if layer not in directions:
        raise ValueError(f"layer '{layer}' has no directions")
    matrix = tuple(weight.flatten(1).shape)
    if directions[layer].shape != matrix:
        raise ValueError(
            f"layer '{layer}': directions of a {directions[layer].shape} matrix do not fit its "
            f"weight, which is {matrix}"
        )
