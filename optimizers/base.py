"""What every optimizer here does the same way: the closure of ``step``, and its checks.

A hyperparameter that is impossible is refused by ValueError in one line that names it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer


class ClosureOptimizer(Optimizer, ABC):
    """A torch optimizer whose subclass writes :meth:`update` instead of ``step``."""

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


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def not_negative(name: str, value: Any) -> float:
    """Return ``value`` as a float >= 0, or raise ValueError."""
    number = _finite(name, value)
    if number < 0:
        raise ValueError(f"{name} must be >= 0, got {value!r}")
    return number


def positive(name: str, value: Any) -> float:
    """Return ``value`` as a float > 0, or raise ValueError."""
    number = _finite(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be > 0, got {value!r}")
    return number


def fraction(name: str, value: Any) -> float:
    """Return ``value`` as a float in [0, 1), or raise ValueError."""
    number = _finite(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    return number


def whole(name: str, value: Any) -> int:
    """Return ``value`` as an int >= 1, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
    return value


def numbers(name: str, values: Any, count: int) -> tuple[float, ...]:
    """Return ``values`` as a tuple of ``count`` finite floats, or raise ValueError."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be {count} numbers, got {values!r}")
    found = tuple(_finite(f"{name}[{i}]", value) for i, value in enumerate(values))
    if len(found) != count:
        raise ValueError(f"{name} must be {count} numbers, got {len(found)}")
    return found


def choice(name: str, value: Any, valid: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``valid``, or raise ValueError naming all of them."""
    options = tuple(valid)
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}; got {value!r}")
    return str(value)
