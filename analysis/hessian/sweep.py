"""Exact directional curvature of all layers at once, for networks piecewise linear above a weight.

There (ReLU, max- and average-pooling, BatchNorm in eval mode, residuals) the exact Hessian in one
layer's weight is its Gauss-Newton block, sum over samples of J^T (diag p - p p^T) J, with J the
logits' derivative in the weight. So h_k needs first derivatives only:

- `class_sweep`: C - 1 backward passes give J^T S_c, S_c the columns of `softmax_loss.factor`,
  for *all* layers at once: h_k = 1/B sum_b sum_c (sum_t (a_t . v_k)(delta_t^c . u_k))^2. That
  costs about C forward passes, whatever the number of layers and directions.
- `tangent`: J d_k is propagated forward to the logits, one direction at a time: for many classes.

`analysis.hessian.piecewise_linear` finds out whether a network is such; `analysis.engines` asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from analysis.directions import Directions
from analysis.hessian import softmax_loss
from analysis.hessian.layer_maps import LayerMap, first_input, layer_maps
from analysis.hessian.piecewise_linear import Probe
from analysis.hessian.turned_convolutions import turn_convolutions
from analysis.objective import Objective

Report = Callable[[], None]
_NOT_OUR_LOSS = "the loss of this batch is not the mean softmax cross-entropy of the outputs"


class _Sums:
    """Hooks that take each layer's input as it passes, and each class's error as it comes back."""

    def __init__(self, maps: dict[str, LayerMap], directions: Mapping[str, Directions]) -> None:
        self.maps = maps
        first = next(iter(maps.values())).module
        like = next(first.parameters())
        self.left = {name: directions[name].left.to(like) for name in maps}
        self.right = {name: directions[name].right.to(like) for name in maps}
        self.inward: dict[str, Tensor] = {}
        self.totals = {
            name: torch.zeros(len(directions[name]), dtype=torch.float64, device=like.device)
            for name in maps
        }

    def forward(self, model: nn.Module, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits, and where backward passes from them end, which add to the totals."""
        starts: list[Tensor] = []
        handles = [
            layer.module.register_forward_hook(partial(self._see, layer, starts), with_kwargs=True)
            for layer in self.maps.values()
        ]
        try:
            logits: Tensor = model(inputs)
        finally:
            for handle in handles:
                handle.remove()
        return logits, starts

    def _see(
        self, layer: LayerMap, starts: list[Tensor], _: nn.Module, args: Any, kwargs: Any,
        output: Tensor,
    ) -> Tensor:  # fmt: skip
        inputs = first_input(args, kwargs).detach()
        self.inward[layer.name] = layer.inward(inputs, self.right[layer.name])
        if not output.requires_grad:  # the lowest layers: derivatives end here
            start = output.detach().requires_grad_()
            starts.append(start)
            output = start.clone()  # for the network may write into what it is given
        output.register_hook(partial(self._add, layer))  # type: ignore[no-untyped-call]
        return output

    @torch.no_grad()
    def _add(self, layer: LayerMap, errors: Tensor) -> None:
        name = layer.name
        moves = layer.along(errors, self.inward[name], self.left[name])
        self.totals[name] += moves.double().square().sum(dim=0)


def class_sweep(
    objective: Objective, directions: Mapping[str, Directions], report: Report
) -> dict[str, Tensor]:
    """Return h[layer] [k] by C - 1 backward passes; ``report`` is called after each microbatch.

    Raises:
        ValueError: the outputs are not [B, C], or the loss is not the mean cross-entropy of them.
    """
    objective.model.requires_grad_(False)
    if objective.device.type == "cuda":  # elsewhere it gains nothing
        turn_convolutions(objective.model)
    sums = _Sums(layer_maps(objective.model, list(objective.weights)), directions)
    for index in range(objective.microbatches):
        with objective.part(index) as (inputs, labels):
            logits, starts = sums.forward(objective.model, inputs)
            _check(objective, logits, labels)
            if logits.ndim != 2:
                raise ValueError(f"the sweep needs logits [B, C], not {tuple(logits.shape)}")
            columns = softmax_loss.factor(logits)
            for column in columns:
                torch.autograd.grad(logits, starts, column, retain_graph=True, allow_unused=True)
            del logits, starts  # or the next pass would find this one's graph in memory
        report()
    return {name: total.cpu() / objective.size for name, total in sums.totals.items()}


def tangent(
    objective: Objective, directions: Mapping[str, Directions], report: Report
) -> dict[str, Tensor]:
    """Return h[layer] [k] by one forward product a direction; arguments as of `class_sweep`.

    The forward product J d is the derivative of J^T w in w along d: reverse mode twice, the first
    time linear in w, so that it costs one pass from the layer up.
    """
    objective.model.requires_grad_(False)
    maps = layer_maps(objective.model, list(objective.weights))
    like = next(iter(objective.weights.values()))
    left = {name: directions[name].left.to(like) for name in maps}
    probe = Probe(maps, {name: directions[name].right.to(like) for name in maps})
    totals = {
        name: torch.zeros(len(directions[name]), dtype=torch.float64, device=like.device)
        for name in maps
    }
    rows = 0
    for index in range(objective.microbatches):
        with objective.part(index) as (inputs, labels):
            with probe.watching():
                logits = objective.model(inputs)
            _check(objective, logits, labels)
            rows += logits.numel() // logits.shape[-1]
            dual = torch.zeros_like(logits).requires_grad_()
            pulled = torch.autograd.grad(
                logits, list(probe.zeros.values()), dual, create_graph=True, materialize_grads=True
            )
            for name, error in zip(probe.zeros, pulled, strict=True):
                products = _products(maps[name], error, dual, probe.inward[name], left[name])
                for k, product in enumerate(products):
                    totals[name][k] += softmax_loss.quadratic(logits, product)
                report()
    return {name: total.cpu() / rows for name, total in totals.items()}


def _products(
    layer: LayerMap, pulled: Tensor, dual: Tensor, inward: Tensor, left: Tensor
) -> Iterator[Tensor]:
    """Give J d of each direction, in the shape of the logits."""
    for k, u in enumerate(left.T):
        move = layer.outward(inward[:, :, k], u, pulled)
        yield torch.autograd.grad(pulled, dual, move, retain_graph=True, materialize_grads=True)[0]


def _check(objective: Objective, logits: Tensor, labels: Tensor) -> None:
    if not softmax_loss.is_cross_entropy(objective.criterion, logits, labels):
        raise ValueError(_NOT_OUR_LOSS)
