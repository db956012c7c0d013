"""The polar factor with random numbers in the place of its ones, of many matrices at a time.

A matrix M = U diag(sigma) V^T, m <= n (or its transpose is taken), becomes U diag(tau) V^T =
U diag(tau / sigma) U^T M, for which the eigenvectors U of M M^T are enough: matrices of one short
side share one batched eigendecomposition, whatever their long sides. In float64 M M^T knows sigma_k
to about 1e-16 (sigma_1 / sigma_k)^2, and sigma below max(m, n) eps of float32 counts as zero, so
that for float32 input and less nothing is lost: at 4608 the floor is 5e-4 and the error 1e-9.
float64 input has its floor at max(m, n) eps of float64, which M M^T cannot see: an SVD of each.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

SPECTRA = ("uniform", "permuted")
_TINY = torch.finfo(torch.float64).tiny


def scramble(matrices: Sequence[Tensor], seeds: Sequence[int], spectrum: str) -> list[Tensor]:
    """U diag(tau) V^T of each matrix ``[m, n]``, at least in float32; NaN for inf or NaN in it.

    tau >= 0, drawn from the matrix's seed, has the norm sqrt(rank) and is zero where sigma is. The
    k-th number that is drawn goes to the k-th largest sigma; ``spectrum`` "permuted" draws a
    permutation of the sigma that are not zero.
    """
    buckets = defaultdict(list)
    for index, matrix in enumerate(matrices):
        # Metal has no float64.
        exact = matrix.dtype == torch.float64 or matrix.device.type == "mps"
        buckets[exact, min(matrix.shape), matrix.device].append(index)
    steps: dict[int, Tensor] = {}
    for (exact, _, _), indices in buckets.items():
        some, theirs = [matrices[i] for i in indices], [seeds[i] for i in indices]
        if exact:
            found = [_by_svd(m, s, spectrum) for m, s in zip(some, theirs, strict=True)]
        else:
            found = _by_gram(some, theirs, spectrum)
        steps |= dict(zip(indices, found, strict=True))
    return [steps[i] for i in range(len(matrices))]


def _by_gram(matrices: Sequence[Tensor], seeds: Sequence[int], spectrum: str) -> list[Tensor]:
    # Squares of float32 neither overflow nor vanish in float64: no scaling.
    wide = [(m if m.shape[0] <= m.shape[1] else m.mT).double() for m in matrices]
    gram = torch.stack([m @ m.mT for m in wide])
    finite = gram.diagonal(dim1=-2, dim2=-1).sum(-1).isfinite().view(-1, 1, 1)
    values, vectors = torch.linalg.eigh(torch.where(finite, gram, 0.0))
    sigma, left = values.clamp(min=0.0).sqrt().flip(-1), vectors.flip(-1)
    floors = [max(m.shape) * torch.finfo(torch.float32).eps for m in matrices]
    tau = _drawn(sigma, floors, seeds, spectrum)
    factor = (left * (tau / sigma.clamp(min=_TINY)).unsqueeze(-2)) @ left.mT
    factor = torch.where(finite, factor, math.nan)
    steps = [f @ m for f, m in zip(factor, wide, strict=True)]
    return [
        (step if step.shape == m.shape else step.mT).to(torch.promote_types(m.dtype, torch.float32))
        for step, m in zip(steps, matrices, strict=True)
    ]


def _by_svd(matrix: Tensor, seed: int, spectrum: str) -> Tensor:
    work = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    peak = work.abs().amax()
    unit = torch.where(peak.isfinite(), work / peak.clamp(min=1e-38), 0.0)
    left, sigma, right = torch.linalg.svd(unit, full_matrices=False)
    floors = [max(matrix.shape) * torch.finfo(work.dtype).eps]
    tau = _drawn(sigma.unsqueeze(0), floors, [seed], spectrum)[0]
    return torch.where(peak.isfinite(), left @ (tau.unsqueeze(1) * right), math.nan)


def _drawn(sigma: Tensor, floors: Sequence[float], seeds: Sequence[int], spectrum: str) -> Tensor:
    """Return tau ``[batch, m]`` for descending sigma; ``floors`` are relative to the largest."""
    floor = sigma.new_tensor(floors).unsqueeze(1)
    real = sigma > sigma[:, :1] * floor
    rank, size = real.sum(-1, keepdim=True), sigma.shape[1]
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]
    if spectrum == "uniform":
        drawn = torch.stack([torch.rand(size, generator=s, dtype=torch.float64) for s in streams])
        tau = drawn.to(sigma)
    else:
        orders = [
            torch.cat([torch.randperm(own, generator=s), torch.arange(own, size)])
            for own, s in zip(rank.flatten().tolist(), streams, strict=True)
        ]
        tau = sigma.gather(1, torch.stack(orders).to(sigma.device))
    tau = torch.where(real, tau, 0.0)
    least = torch.finfo(sigma.dtype).tiny  # all are zero then
    norm: Tensor = tau.norm(dim=-1, keepdim=True).clamp(min=least)
    return tau * (rank.to(sigma).sqrt() / norm)
