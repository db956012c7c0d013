"""What training minimises and evaluation reports: cross-entropy, for images and tokens alike."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
