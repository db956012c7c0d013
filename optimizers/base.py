"""What every optimizer here does the same way: the closure of ``step``, and no sparse gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import overload

import torch
from torch import Tensor
from torch.optim import Optimizer


class ClosureOptimizer(Optimizer, ABC):
    """A torch optimizer whose subclass writes :meth:`update` in the place of ``step``."""

    @abstractmethod
    def update(self) -> None:
        """Step every group from the gradients as they are; autograd is off."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step every group; ``closure``, if given, re-evaluates the model and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update()
        return loss

    def has_gradient(self, param: Tensor) -> bool:
        """Whether ``param`` is to be stepped.

        Raises RuntimeError for a sparse gradient.
        """
        if param.grad is not None and param.grad.is_sparse:
            raise RuntimeError(
                f"{type(self).__name__} does not support sparse gradients; "
                "build the embedding with sparse=False"
            )
        return param.grad is not None
