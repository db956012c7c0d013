"""Exact directional curvature of all layers at once, for networks piecewise linear above a weight.

There (ReLU, max- and average-pooling, BatchNorm in eval mode, residuals) the exact Hessian in one
layer's weight is its Gauss-Newton block, sum over samples of J^T (diag p - p p^T) J, with J the
logits' derivative in the weight. So h_k needs first derivatives only:

- `class_sweep`: C - 1 backward passes give J^T S_c, S_c the columns of `layers.factor`,
  for *all* layers at once: h_k = 1/B sum_b sum_c (sum_t (a_t . v_k)(delta_t^c . u_k))^2. That
  costs about C forward passes, whatever the number of layers and directions.
- `tangent`: J d_k is propagated forward to the logits, one direction at a time: for many classes.

`analysis.curvature_core.piecewise_linear` finds out whether a network is such;
`analysis.curvature_core.engines` asks it.

A convolution's derivative in its input is computed as the forward convolution that it is: where the
stride is 1, the errors at a convolution's input are a convolution of those at its output,
the filters turned around and inputs and outputs swapped. In full float32, cuDNN's kernels for a
forward convolution are up to 1.4 times as fast as those for a derivative (one H200, 64 channels of
32x32: 41 against 29 TFLOP/s), and the class sweep is made of little else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from analysis.curvature_core import layers
from analysis.curvature_core.directions import Directions
from analysis.curvature_core.layers import CONVOLUTIONS, LayerMap, first_input, layer_maps
from analysis.curvature_core.objective import Objective
from analysis.curvature_core.piecewise_linear import Probe


def turn_convolutions(model: nn.Module) -> None:
    """Let every convolution of stride 1 in ``model``, a private copy, compute its derivative so.

    Ungrouped ones alone, padded by zeros; the others stay as they are. First derivatives in the
    inputs are right, and no others: not those in weights, and no second ones.
    """
    for module in model.modules():
        reach = _reach(module)
        if reach is not None:
            module.forward = partial(_forward, module, _turned(module.weight), reach)


def _reach(module: nn.Module) -> list[int] | None:
    """Return the zeros around the errors, by axis; None where the derivative is no such thing."""
    if type(module) not in CONVOLUTIONS:
        return None
    conv: Any = module
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros" or conv.groups != 1:
        return None
    sides = zip(conv.kernel_size, conv.padding, conv.dilation, strict=True)
    reach = [dilation * (kernel - 1) - padding for kernel, padding, dilation in sides]
    return reach if all(s == 1 for s in conv.stride) and min(reach) >= 0 else None


def _turned(weight: Any) -> Tensor:
    turned: Tensor = weight.detach().flip(*range(2, weight.ndim)).transpose(0, 1).contiguous()
    return turned


def _forward(conv: Any, turned: Tensor, reach: list[int], *args: Any, **kwargs: Any) -> Tensor:
    inputs = first_input(args, kwargs)
    output: Tensor = _Convolution.apply(inputs, conv, turned, reach)  # type: ignore
    return output


class _Convolution(torch.autograd.Function):
    """The convolution ``conv``, its derivative in the input by the filters ``turned``."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, conv: Any, turned: Tensor, reach: list[int]) -> Tensor:
        ctx.turned, ctx.reach, ctx.dilation = turned, reach, conv.dilation
        output: Tensor = conv._conv_forward(inputs, conv.weight, conv.bias)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, errors: Tensor) -> tuple[Tensor, None, None, None]:
        none = [0] * len(ctx.reach)
        one = [1] * len(ctx.reach)
        moved = torch.convolution(
            errors, ctx.turned, None, one, ctx.reach, ctx.dilation, False, none, 1
        )
        return moved, None, None, None


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
            columns = layers.factor(logits)
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
                    totals[name][k] += layers.quadratic(logits, product)
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
    if not layers.is_cross_entropy(objective.criterion, logits, labels):
        raise ValueError(_NOT_OUR_LOSS)
