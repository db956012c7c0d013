"""The same numbers as ours by other means: a plain script's, and another library's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from analysis.directions import Directions
from analysis.objective import Batch, Objective, Settings, cross_entropy, exact_arithmetic


def plain_double_backward(
    model: nn.Module, batch: Batch, directions: Mapping[str, Directions], settings: Settings
) -> dict[str, Tensor]:
    """Return h[layer] [k] by two backward passes a direction, each time through a new graph.

    What a short script does: nothing is shared between directions. The same microbatches and
    arithmetic as of our engines.
    """
    objective = Objective(model, cross_entropy, batch, directions, settings, copies=6)
    found = {}
    for layer, along in directions.items():
        weight = objective.weights[layer]
        h = torch.zeros(len(along), dtype=torch.float64)
        for k, (u, v) in enumerate(zip(along.left.T, along.right.T, strict=True)):
            direction = torch.outer(u, v).reshape(weight.shape).to(weight)
            for index in range(objective.microbatches):
                with objective.loss(index) as share:
                    (gradient,) = torch.autograd.grad(share, weight, create_graph=True)
                    (product,) = torch.autograd.grad((gradient * direction).sum(), weight)
                h[k] += float((product * direction).sum(dtype=torch.float64))
        found[layer] = h
    return found


class _MeanCrossEntropy(nn.Module):
    """The loss as a module that says how it reduces, as curvlinops asks."""

    reduction = "mean"

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets)


def curvlinops_hessian(
    model: nn.Module, batch: Batch, directions: Mapping[str, Directions], settings: Settings
) -> dict[str, Tensor]:
    """Return h[layer] [k] by curvlinops' HessianLinearOperator of each layer's weight.

    The same microbatches and arithmetic as of our engines; its check for determinism is off.

    """
    from curvlinops import HessianLinearOperator  # here, for it is no dependency

    objective = Objective(model, cross_entropy, batch, directions, settings, copies=6)
    parts = []
    for index in range(objective.microbatches):
        with objective.part(index) as part:
            parts.append(part)
    found = {}
    for layer, along in directions.items():
        weight = objective.weights[layer]
        left, right = along.left.to(weight), along.right.to(weight)
        columns = torch.einsum("mk,nk->mnk", left, right).flatten(0, 1)
        with exact_arithmetic(objective.device, seed=0, autotune=settings.autotune):
            operator = HessianLinearOperator(
                objective.model,
                _MeanCrossEntropy(),
                [weight],
                parts,
                check_deterministic=False,
                num_data=objective.size,
            )
            products = operator @ columns
        found[layer] = (columns.double() * products.detach().double()).sum(dim=0).cpu()
    return found
