"""Spectral transfer and polar factor of many matrices at once, through shared Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optimizers.gram_functions import evaluate_chebyshev, square_bound
from optimizers.polar import GRAM_FROM, direct_steps, gram_factor, steps_per_gram
from optimizers.shared_batches import Bucket, pack, share, unpack
from optimizers.transfer_fit import polynomial_degree, polynomial_fit
from optimizers.transfer_methods import unit_roundoff

# Up to this many elements a batch costs kernels, not arithmetic: it had better share them.
_SMALL = 2**22


class SharedTransfer(NamedTuple):
    """A bucket of stacks, and the polynomial of each of its K matrices.

    ``coefficients`` is ``[K, degree + 1]`` and ``scale`` ``[K, 1, 1]``, float32, on their device.
    """

    bucket: Bucket
    coefficients: Tensor
    scale: Tensor


def share_transfer(
    shapes: Sequence[tuple[int, int, int]],
    alphas: Sequence[float],
    damping: float,
    tolerance: float,
    devices: Sequence[torch.device],
    *,
    padding: int | None = None,
) -> list[SharedTransfer]:
    """Sort stacks ``shapes`` = (count, rows, cols), an alpha and a device each, and fit.

    ``padding`` is that of :func:`optimizers.shared_batches.share`. Raises ValueError where no
    polynomial reaches ``tolerance`` for an alpha and ``damping``.
    """
    found = []
    for bucket in share(shapes, devices, padding):
        order = bucket.stacks
        # One degree for the batch: the largest that one of its alphas needs.
        degree = max(polynomial_degree(alphas[i], damping, tolerance) for i in order)
        fits = [
            polynomial_fit(alphas[i], damping, degree) for i in order for _ in range(shapes[i][0])
        ]
        coefficients = torch.tensor([fit.coefficients for fit in fits], dtype=torch.float32)
        scale = torch.tensor([fit.scale for fit in fits], dtype=torch.float32).reshape(-1, 1, 1)
        device = devices[order[0]]
        found.append(SharedTransfer(bucket, coefficients.to(device), scale.to(device)))
    return found


def transfer_stacks(
    stacks: Sequence[Tensor], shared: Sequence[SharedTransfer], normalize: str, dtype: torch.dtype
) -> list[Tensor]:
    """T of every matrix of every stack ``[k, rows, cols]``, by the fitted polynomials.

    ``normalize``: "schatten8" divides sigma by (sum sigma^8)^(1/8) >= sigma_1, which costs
    nothing here; "frobenius" by ||sigma||. Products run in ``dtype``; what comes is float32, or
    float64 if they did. A zero matrix maps to zero.
    """
    results: dict[int, Tensor] = {}
    for bucket, coefficients, scale in shared:
        root = bucket.side**0.25  # this norm keeps the Gram matrix's square within fp16's range
        packed = pack(stacks, bucket, root, dtype)
        counts = [len(batch) for batch in packed]
        gram = torch.cat([batch @ batch.mT for batch in packed])
        square = gram @ gram
        if normalize == "schatten8":
            bound = square_bound(square)
        else:
            bound = torch.full_like(square[:, :1, :1], root, dtype=torch.float32)
        # A polynomial grows fast beyond 1: rounding must not push sigma_1 there.
        inverse = 1 / (bound * (1 + unit_roundoff(dtype))).clamp(min=0.5 / root)  # below: zero
        gram = (gram * inverse**2).to(dtype)
        square = (square * inverse**4).to(dtype)
        factor = evaluate_chebyshev(gram, coefficients, square)
        moved = [part @ x for part, x in zip(torch.split(factor, counts), packed, strict=True)]
        gains = torch.split(scale * inverse, counts)  # float32 or wider, and so is the product
        scaled = [matrix * gain for matrix, gain in zip(moved, gains, strict=True)]
        results.update(unpack(scaled, bucket, stacks))
    return [results[index] for index in range(len(stacks))]


def polar_stacks(
    stacks: Sequence[Tensor],
    buckets: Sequence[Bucket],
    quintics: Sequence[tuple[float, ...]],
    dtype: torch.dtype,
) -> list[Tensor]:
    """Polar factor of every matrix of every stack ``[k, rows, cols]``, by the quintics.

    As :func:`optimizers.polar.newton_schulz` with form "gram" where that is the cheaper one, and
    "direct" in large batches of nearly square matrices. Products run in ``dtype``,
    which is the result's.
    """
    results: dict[int, Tensor] = {}
    runs = steps_per_gram(quintics, torch.finfo(dtype).eps)
    for bucket in buckets:
        packed = pack(stacks, bucket, 1.0, dtype)
        by_gram = [
            batch.shape[-1] > GRAM_FROM * bucket.side or batch.numel() <= _SMALL for batch in packed
        ]
        moved = [x for x, chosen in zip(packed, by_gram, strict=True) if chosen]
        counts = [len(batch) for batch in moved]
        for some in runs if moved else ():
            factor = gram_factor(torch.cat([x @ x.mT for x in moved]), some)
            moved = [part @ x for part, x in zip(torch.split(factor, counts), moved, strict=True)]
        shared = iter(moved)
        polar = [
            next(shared) if chosen else direct_steps(x, quintics)
            for x, chosen in zip(packed, by_gram, strict=True)
        ]
        results.update(unpack(polar, bucket, stacks))
    return [results[index] for index in range(len(stacks))]
