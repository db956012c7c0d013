"""Functions of a matrix through its singular values: polar factor and spectral transfer.

Everything takes one matrix ``[m, n]`` or a batch ``[..., m, n]`` of them and returns the same shape
and dtype. A zero matrix maps to zero; finite input never gives NaN; a matrix holding inf or NaN
gives NaN (for that matrix of a batch only), so that a diverged run shows as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from optimizers import checks

NORMALIZATIONS = ("none", "frobenius", "rms", "spectral")
SHAPE_SCALES = ("original", "match_rms_adamw")
MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)

# (matrix with largest entry 1, gain or None for spectral, alpha, damping) -> transferred matrix
_Method: TypeAlias = Callable[[Tensor, Tensor | None, float, float], Tensor]


def as_matrix(weight: Tensor) -> Tensor:
    """View a weight as a matrix: Linear ``[out, in]`` as stored, ConvNd as ``[out, in*kh*kw]``.

    Raises ValueError for fewer than two dimensions.
    """
    if weight.ndim < 2:
        raise ValueError(f"a matrix needs at least 2 dimensions, got shape {tuple(weight.shape)}")
    return weight.flatten(1)


def shape_scale(rows: int, cols: int, rule: str) -> float:
    """Learning-rate factor for an orthogonal update of a ``rows x cols`` matrix.

    ``original``: sqrt(max(1, rows/cols)) (Keller Jordan's Muon); ``match_rms_adamw``:
    0.2 sqrt(max(rows, cols)) (Moonlight). The same two rules as torch.optim.Muon's adjust_lr_fn.
    """
    if checks.choice("scale", rule, SHAPE_SCALES) == "original":
        return math.sqrt(max(1.0, rows / cols))
    return 0.2 * math.sqrt(max(rows, cols))


def newton_schulz(
    matrix: Tensor,
    steps: int = 5,
    coefficients: tuple[float, float, float] = MUON_COEFFICIENTS,
    eps: float = 1e-7,
) -> Tensor:
    """Muon's approximate polar factor U V^T of ``matrix`` ``[..., m, n]`` = U diag(sigma) V^T.

    Each step maps sigma to a sigma + b sigma^3 + c sigma^5, from sigma / max(||sigma||, eps); with
    Muon's coefficients the results spread over about [0.7, 1.2] instead of converging to 1. Runs in
    bfloat16 on CUDA and in the given dtype on CPU; float64 stays float64 everywhere.

    Source: Jordan et al., "Muon" (2024); compared with torch.optim.Muon.
    """
    steps = checks.whole("steps", steps)
    a, b, c = checks.numbers("coefficients", coefficients, 3)
    if matrix.numel() == 0:
        return matrix.clone()
    low = matrix.is_cuda and matrix.dtype != torch.float64
    x = matrix.reshape(-1, *matrix.shape[-2:]).to(torch.bfloat16 if low else matrix.dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.mT if tall else x
    return x.reshape(matrix.shape).to(matrix.dtype)


def spectral_transfer(
    matrix: Tensor,
    alpha: float,
    damping: float,
    normalize: str = "spectral",
    method: str = "auto",
) -> Tensor:
    """U diag(T(sigma)) V^T with T(sigma) = sigma / (sigma^alpha + damping).

    ``matrix`` is ``[..., m, n]`` = U diag(sigma) V^T, of any real floating dtype; sigma is first
    divided, for each matrix alone, by

    - ``none``: 1 (the paper's text as it stands);
    - ``frobenius``: ||sigma||, the Frobenius norm;
    - ``rms``: ||sigma|| / sqrt(min(m, n)), so that the mean square of sigma is 1;
    - ``spectral``: sigma_1, the exact largest singular value.

    ``method``: ``eigh`` eigendecomposes the smaller Gram matrix, whose eigenvalue x = sigma^2 gives
    the factor 1 / (x^(alpha/2) + damping); ``svd`` is the reference; ``auto`` is ``eigh``. Both
    work in float64 (float32 on devices without it) and return the dtype of ``matrix``.

    Raises ValueError for alpha <= 0, damping <= 0, or an unknown ``normalize`` or ``method``.
    Source: Calvo 2026 (arXiv 2606.02596), section 7.3, T(sigma; alpha).
    """
    alpha, damping = checks.positive("alpha", alpha), checks.positive("damping", damping)
    checks.choice("normalize", normalize, NORMALIZATIONS)
    checks.choice("method", method, METHODS)
    if matrix.numel() == 0:
        return matrix.clone()
    unit, peak, finite = _unit_peak(matrix)
    transferred = METHODS[method](unit, _gain(unit, peak, normalize), alpha, damping)
    return torch.where(finite, transferred, math.nan).to(matrix.dtype)


def transfer_amplitude(matrix: Tensor, alpha: float, damping: float, normalize: str) -> Tensor:
    """Largest value of T on [0, sigma_1], ``[..., 1, 1]``; sigma_1 normalised as spectral_transfer.

    T rises up to sigma = (damping / (alpha - 1))^(1/alpha) for alpha > 1, and everywhere for
    alpha <= 1. For a matrix of zeros it is 1, so that dividing by it is always possible.
    """
    unit, peak, finite = _unit_peak(matrix)
    gain = _gain(unit, peak, normalize)
    top = unit.new_ones(peak.shape)
    if gain is not None:
        top = torch.linalg.matrix_norm(unit, ord=2, keepdim=True) * gain
    if alpha > 1:
        top = top.clamp(max=(damping / (alpha - 1)) ** (1 / alpha))
    amplitude = top / (top**alpha + damping)
    return torch.where(finite & (amplitude > 0), amplitude, 1.0)


def with_frobenius_norm(matrix: Tensor, norm: float) -> Tensor:
    """Scale each matrix of ``[..., m, n]`` to Frobenius norm ``norm``; zero stays zero."""
    if matrix.numel() == 0:
        return matrix.clone()
    unit, _, finite = _unit_peak(matrix)
    length = torch.linalg.matrix_norm(unit, keepdim=True)
    scaled = unit * torch.where(length > 0, norm / length, 0.0)
    return torch.where(finite, scaled, math.nan).to(matrix.dtype)


def _unit_peak(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split into (matrix with largest entry 1, that entry, whether all entries are finite).

    With the largest entry at 1 no square can overflow or vanish. Where not finite, unit is 0.
    """
    if matrix.ndim < 2 or not matrix.is_floating_point():
        shape = tuple(matrix.shape)
        raise ValueError(f"expected a real matrix [..., m, n], got {matrix.dtype} of shape {shape}")
    work = matrix.to(torch.float32 if matrix.device.type == "mps" else torch.float64)
    peak = work.abs().amax(dim=(-2, -1), keepdim=True)
    finite = peak.isfinite()
    peak = torch.where(finite & (peak > 0), peak, 1.0)
    return torch.where(finite, work / peak, 0.0), peak, finite


def _gain(unit: Tensor, peak: Tensor, normalize: str) -> Tensor | None:
    """Factor ``[..., 1, 1]`` from sigma of ``unit`` to normalised sigma; None for 1 / sigma_1."""
    if normalize == "spectral":
        return None
    if normalize == "none":
        return peak
    length = torch.linalg.matrix_norm(unit, keepdim=True)
    root = math.sqrt(min(unit.shape[-2:])) if normalize == "rms" else 1.0
    return _inverse(length) * root


def _inverse(value: Tensor) -> Tensor:
    return torch.where(value > 0, 1 / value, 0.0)


def _transfer_eigh(unit: Tensor, gain: Tensor | None, alpha: float, damping: float) -> Tensor:
    if unit.shape[-2] > unit.shape[-1]:
        return _transfer_eigh(unit.mT, gain, alpha, damping).mT
    eigenvalues, basis = torch.linalg.eigh(unit @ unit.mT)
    sigma = eigenvalues.clamp(min=0).sqrt().unsqueeze(-1)  # rounding leaves small negative ones
    gain = _inverse(sigma[..., -1:, :]) if gain is None else gain
    factor = gain / ((sigma * gain) ** alpha + damping)
    transferred: Tensor = basis @ (factor * (basis.mT @ unit))
    return transferred


def _transfer_svd(unit: Tensor, gain: Tensor | None, alpha: float, damping: float) -> Tensor:
    left, singular_values, right = torch.linalg.svd(unit, full_matrices=False)
    sigma = singular_values.unsqueeze(-1)
    gain = _inverse(sigma[..., :1, :]) if gain is None else gain
    sigma = sigma * gain
    transferred: Tensor = left @ (sigma / (sigma**alpha + damping) * right)
    return transferred


METHODS: dict[str, _Method] = {
    "auto": _transfer_eigh,
    "eigh": _transfer_eigh,
    "svd": _transfer_svd,
}
