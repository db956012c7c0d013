"""Cross-entropy for images and tokens, its values since the last history row, and divergence.

A training that has got out of hand is a result; what fails then is no defect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy over all targets, a scalar of the logits' dtype.

    The classes are the LAST dimension: ``logits`` [B, C] with ``targets`` int64 [B], or
    [B, T, V] with [B, T]. Under autocast it is computed in float32.

    Raises:
        ValueError: the shapes do not belong together.
    """
    logits, targets = flattened(logits, targets)
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)


def loss_and_hits(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the SUM of cross-entropies (float32) and the number of right answers (int64).

    Shapes as in :func:`cross_entropy`; divide both by ``targets.numel()``.
    """
    logits, targets = flattened(logits, targets)
    losses = F.cross_entropy(logits.float(), targets, reduction="sum")
    return losses, (logits.argmax(dim=1) == targets).sum()


def flattened(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits [N, C] and targets [N], one row a target."""
    if logits.ndim < 2 or logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} do not fit targets of shape "
            f"{tuple(targets.shape)}: the classes must be the last dimension, one row a target"
        )
    return logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)


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


LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
# A loss so many times that of the first steps, which know nothing of the task.
_EXPLODED = 10.0


class DivergedError(Exception):
    """The training cannot go on by its own fault; the text has the cause and the step."""


def symptom(model: nn.Module, first_loss: float, last_loss: float) -> str | None:
    """Return what shows that the training of ``model`` is out of hand; None where nothing does.

    That is a weight that is not finite, a gradient that is not or whose square is not (a
    preconditioner is made of squares), or a loss of ten times the first.
    """
    parameters = list(model.parameters())
    gradients = [each.grad for each in parameters if each.grad is not None]
    if not math.isfinite(_largest(parameters)):
        return "weights are not finite"
    largest = _largest(gradients)
    if not math.isfinite(largest):
        return "gradients are not finite"
    if any(_largest([each]) ** 2 > torch.finfo(each.dtype).max for each in gradients):
        return f"gradients of up to {largest:.2g}"
    if not last_loss <= _EXPLODED * first_loss:
        return f"the training loss has gone from {first_loss:.4g} to {last_loss:.4g}"
    return None


def _largest(tensors: Iterable[Tensor]) -> float:
    """The largest absolute value, NaN where there is one."""
    peaks = [each.detach().abs().max().double().cpu() for each in tensors if each.numel()]
    return float(torch.stack(peaks).max()) if peaks else 0.0
