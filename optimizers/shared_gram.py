"""Spectral transfer of many matrices at once: all that share a short side share one evaluation.

f acts on the small Gram matrix only, so matrices of the same short side n go through one batch of
n x n products, whatever their long sides; on a GPU the number of kernels rules at these sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optimizers.gram_functions import evaluate_chebyshev, square_bound
from optimizers.transfer_fit import polynomial_degree, polynomial_fit

# Below this norm a matrix counts as zero: its inverse must not overflow float32.
_TINY = 1e-30


class Bucket(NamedTuple):
    """The stacks of one short side, and the polynomial of each of their matrices.

    ``coefficients`` is ``[K, degree + 1]`` and ``scale`` ``[K, 1, 1]``, float32 on the stacks'
    device, K being the number of matrices in all stacks of the bucket, in order.
    """

    stacks: tuple[int, ...]
    coefficients: Tensor
    scale: Tensor


def make_buckets(
    shapes: Sequence[tuple[int, int, int]],
    alphas: Sequence[float],
    damping: float,
    tolerance: float,
    devices: Sequence[torch.device],
) -> list[Bucket]:
    """Sort stacks ``shapes`` = (count, rows, cols), an alpha and a device each, by short side.

    Raises ValueError where no polynomial reaches ``tolerance`` for an alpha and ``damping``.
    """
    sides: dict[tuple[int, torch.device], list[int]] = {}
    for index, (_, rows, cols) in enumerate(shapes):
        sides.setdefault((min(rows, cols), devices[index]), []).append(index)
    buckets = []
    for (_, device), indices in sides.items():
        # One degree for the batch: the largest that one of its alphas needs.
        degree = max(polynomial_degree(alphas[i], damping, tolerance) for i in indices)
        fits = [
            polynomial_fit(alphas[i], damping, degree) for i in indices for _ in range(shapes[i][0])
        ]
        coefficients = torch.tensor([fit.coefficients for fit in fits], dtype=torch.float32)
        scale = torch.tensor([fit.scale for fit in fits], dtype=torch.float32)
        buckets.append(
            Bucket(tuple(indices), coefficients.to(device), scale.reshape(-1, 1, 1).to(device))
        )
    return buckets


def transfer_stacks(
    stacks: Sequence[Tensor], buckets: Sequence[Bucket], normalize: str, dtype: torch.dtype
) -> list[Tensor]:
    """T of every matrix of every stack ``[k, rows, cols]``, float32, by the buckets' polynomials.

    ``normalize``: "schatten8" divides sigma by (sum sigma^8)^(1/8) >= sigma_1, which costs
    nothing here; "frobenius" by ||sigma||. Products run in ``dtype``; a zero matrix maps to zero.
    """
    results: list[Tensor | None] = [None] * len(stacks)
    for bucket in buckets:
        flat = [_short_side_first(stacks[i]) for i in bucket.stacks]
        unit = [_scaled(matrix, dtype) for matrix in flat]
        counts = [len(matrix) for matrix in flat]
        gram = torch.cat([matrix @ matrix.mT for matrix in unit])
        side = gram.shape[-1]
        square = gram @ gram
        if normalize == "schatten8":
            bound = square_bound(square)
        else:
            bound = torch.full_like(square[:, :1, :1], side**0.25, dtype=torch.float32)
        inverse = 1 / bound.clamp(min=0.5 * side**-0.25)  # only a zero matrix is below
        gram = (gram * inverse**2).to(dtype)
        square = (square * inverse**4).to(dtype)
        factor = evaluate_chebyshev(gram, bucket.coefficients, square)
        gains = torch.split(bucket.scale * inverse, counts)
        factors = torch.split(factor, counts)
        for i, matrix, part, gain in zip(bucket.stacks, unit, factors, gains, strict=True):
            moved = (part @ matrix).float() * gain
            results[i] = moved.mT if stacks[i].shape[-2] > stacks[i].shape[-1] else moved
    return [result for result in results if result is not None]


def with_norm(matrices: Tensor, norm: float) -> Tensor:
    """Scale each float32 matrix of ``[k, rows, cols]`` to Frobenius norm ``norm``; zero stays."""
    length = torch.linalg.matrix_norm(matrices, keepdim=True)
    scaled: Tensor = matrices * (norm / length.clamp(min=_TINY))
    return scaled


def _short_side_first(matrices: Tensor) -> Tensor:
    return matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices


def _scaled(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale each matrix to Frobenius norm n^(1/4), n its short side: half precision's range."""
    wide = matrices.float()
    norm = torch.linalg.matrix_norm(wide, keepdim=True)
    side: int = matrices.shape[-2]
    gain = side**0.25 / norm.clamp(min=_TINY)
    scaled: Tensor = (wide * gain).to(dtype)
    return scaled
