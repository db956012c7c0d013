"""A network with a function whose second derivative autograd would take to be zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Square(torch.autograd.Function):
    """x^2 whose derivative cannot be differentiated again, as compiled kernels' cannot."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, errors: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * errors


class OnceDifferentiable(nn.Module):
    """Linear "up" (4 to 5), its square, Linear "down" (to 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        squared: Tensor = Square.apply(self.up(x))  # type: ignore[no-untyped-call]
        return self.down(squared)
