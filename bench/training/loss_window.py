"""The losses since the last history row: kept on the device, read back all at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class LossWindow:
    """A buffer of scalar losses on a device; adding one does not wait for the device.

    Args:
        capacity: losses expected between two readings, 1 or more; it grows when there are more.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._buffer = torch.zeros(capacity, dtype=torch.float32, device=device)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, loss: Tensor) -> None:
        """Copy a scalar in; its own memory may be overwritten afterwards."""
        if self._count == len(self._buffer):  # a run continued with shorter windows
            self._buffer = torch.cat([self._buffer, torch.zeros_like(self._buffer)])
        self._buffer[self._count].copy_(loss)
        self._count += 1

    def values(self) -> Tensor:
        """Return the losses so far, float32 [n], a copy on the device."""
        return self._buffer[: self._count].clone()

    def take(self, combine: Callable[[Tensor], Tensor] | None = None) -> list[float]:
        """Return the losses so far, after ``combine``, and forget them; waits for the device."""
        values = self.values()
        losses: list[float] = (combine(values) if combine else values).double().tolist()
        self._count = 0
        return losses

    def load(self, values: Tensor) -> None:
        """Continue from ``values``, what :meth:`values` gave."""
        self._count = 0
        for value in values:
            self.add(value)
