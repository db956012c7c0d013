"""When a training has got out of hand, so that what fails then is a result and no defect."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
# A loss so many times that of the first steps, which know nothing of the task.
_EXPLODED = 10.0


class DivergedError(Exception):
    """The training cannot go on by its own fault; the text says by what, and at which step."""


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
