"""Convolutions whose derivative in the input is computed as the forward convolution that it is.

Where the stride is 1, the errors at a convolution's input are a convolution of those at its output,
the filters turned around and inputs and outputs swapped. In full float32, cuDNN's kernels for a
forward convolution are up to 1.4 times as fast as those for a derivative (one H200, 64 channels of
32x32: 41 against 29 TFLOP/s), and the class sweep is made of little else.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from analysis.hessian.layer_maps import CONVOLUTIONS, first_input


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
