"""Matrices of every kind, for several test files."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from optimizers.math.transfer import as_matrix

FLOAT64 = torch.float64


def random_matrix(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal entries in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def with_singular_values(rows: int, cols: int, sigma: np.ndarray | Tensor, seed: int = 0) -> Tensor:
    """A ``rows x cols`` float64 matrix of these singular values and random directions."""
    left = torch.linalg.qr(random_matrix(rows, len(sigma), seed=seed)).Q
    right = torch.linalg.qr(random_matrix(cols, len(sigma), seed=seed + 1)).Q
    return left @ torch.diag(torch.as_tensor(sigma)) @ right.T


MATRICES = {
    "square": random_matrix(7, 7),
    "tall": random_matrix(12, 5),
    "wide": random_matrix(5, 12),
    "one row": random_matrix(1, 9),
    "one column": random_matrix(9, 1),
    "one entry": random_matrix(1, 1),
    "conv": as_matrix(random_matrix(6, 4, 3, 3)),
    "rank deficient": random_matrix(8, 3) @ random_matrix(3, 8, seed=1),
    "rank one": random_matrix(8, 1) @ random_matrix(1, 5, seed=1),
    "ill-conditioned": with_singular_values(9, 12, np.logspace(0, -8, 9)),
    "equal sigma": with_singular_values(6, 6, np.ones(6)),
    "zero": torch.zeros(4, 6, dtype=FLOAT64),
    "huge": random_matrix(5, 6) * 1e150,
    "tiny": random_matrix(5, 6) * 1e-150,
}
