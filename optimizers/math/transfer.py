"""Spectral transfer of whole matrices: each singular value sigma becomes T(sigma).

Everything takes one matrix ``[m, n]`` or a batch ``[..., m, n]`` of them and returns the same shape
and dtype. A zero matrix maps to zero; finite input never gives NaN; a matrix holding inf or NaN
gives NaN (for that matrix of a batch only), so that a diverged run shows as one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from optimizers import base
from optimizers.math.gram import inverse, schatten8_bound, spectral_bound, spectral_squarings
from optimizers.math.methods import (
    METHODS,
    NORMALIZATIONS,
    Plan,
    Transfer,
    automatic_plan,
    available_precisions,
    make_plan,
    transfer_by_gram,
)

SHAPE_SCALES = ("original", "match_rms_adamw")
_AMPLITUDE_SLACK = 1e-3


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
    if base.choice("scale", rule, SHAPE_SCALES) == "original":
        return math.sqrt(max(1.0, rows / cols))
    return 0.2 * math.sqrt(max(rows, cols))


def spectral_transfer(
    matrix: Tensor,
    alpha: float,
    damping: float,
    normalize: str = "spectral",
    method: str = "auto",
    *,
    tolerance: float = 0.01,
    precision: torch.dtype | None = None,
) -> Tensor:
    """U diag(T(sigma)) V^T with T(sigma) = sigma / (sigma^alpha + damping).

    ``matrix`` is ``[..., m, n]`` = U diag(sigma) V^T, of any real floating dtype; sigma is first
    divided, for each matrix alone, by

    - ``none``: 1 (the paper's text as it stands);
    - ``frobenius``: ||sigma||, the Frobenius norm;
    - ``rms``: ||sigma|| / sqrt(min(m, n)), so that the mean square of sigma is 1;
    - ``spectral``: sigma_1, the largest singular value;
    - ``schatten8``: (sum sigma^8)^(1/8), from sigma_1 to min(m, n)^(1/8) sigma_1, which costs one
      product (1.0 to 1.1 sigma_1 where sigma falls off, 1.5 for random entries with m = 300).

    ``method`` is how it is computed, as :mod:`optimizers.math.methods` describes: "auto", "eigh",
    "svd", "cholesky", "polynomial" or "rational". The last two refuse "none", and all three fast
    ones a ``tolerance`` on the error that they cannot reach. ``precision`` names the dtype of their
    products; by default it is the fastest that keeps to ``tolerance``: float64 on the CPU, else
    float16, float32 or float64. :func:`transfer_plan` returns what is taken,
    :func:`optimizers.math.methods.transfer_flops` what it costs.

    Raises ValueError for alpha <= 0, damping <= 0, an unknown ``normalize`` or ``method``, or one
    that cannot reach ``tolerance``.
    Source: Calvo 2026 (arXiv 2606.02596), section 7.3, T(sigma; alpha). Compared with
    :func:`optimizers.reference.transfer`.
    """
    if matrix.ndim < 2 or not matrix.is_floating_point():
        shape = tuple(matrix.shape)
        raise ValueError(f"expected a real matrix [..., m, n], got {matrix.dtype} of shape {shape}")
    plan = transfer_plan(
        matrix, alpha, damping, normalize, method, tolerance=tolerance, precision=precision
    )
    if matrix.numel() == 0:
        return matrix.clone()
    if isinstance(plan, Plan):
        wide = torch.promote_types(matrix.dtype, torch.promote_types(plan.precision, torch.float32))
    else:
        wide = _widest(matrix.device)
    unit, peak, finite = _unit_peak(matrix, wide)
    tall = matrix.shape[-2] > matrix.shape[-1]
    unit = unit.mT if tall else unit
    if isinstance(plan, Plan):
        flat = unit.reshape(-1, *unit.shape[-2:])
        moved = transfer_by_gram(flat, peak.reshape(-1, 1, 1), plan).reshape(unit.shape)
    else:
        exact = _transfer_eigh if plan == "eigh" else _transfer_svd
        moved = exact(unit, peak, Transfer(alpha, damping, normalize))
    moved = moved.mT if tall else moved
    return torch.where(finite, moved, math.nan).to(matrix.dtype)


def transfer_plan(
    matrix: Tensor,
    alpha: float,
    damping: float,
    normalize: str = "spectral",
    method: str = "auto",
    *,
    tolerance: float = 0.01,
    precision: torch.dtype | None = None,
) -> Plan | str:
    """What :func:`spectral_transfer` takes for these arguments: "eigh", "svd", or a Plan.

    A Plan holds the method, the precision of its products, its fit and the bound on its error.
    """
    alpha, damping = base.positive("alpha", alpha), base.positive("damping", damping)
    base.choice("normalize", normalize, NORMALIZATIONS)
    base.choice("method", method, METHODS)
    base.positive("tolerance", tolerance)
    device, size = matrix.device, max(1, min(matrix.shape[-2:]))
    exact = device.type == "cpu" or matrix.dtype == torch.float64
    if method == "auto" and precision is None and exact:
        # Raw sigma can be so large that damping is lost in the rounding of the Gram matrix.
        method = "cholesky" if alpha == 2 and normalize not in ("none", "spectral") else "eigh"
    if method in ("eigh", "svd"):
        return method
    precisions = (precision,) if precision else available_precisions(method, device, matrix.dtype)
    tf32: bool = device.type == "cuda" and _tensor_float()
    plan: Plan | str = _planned(
        method, (alpha, damping, normalize), size, tolerance, precisions=precisions, tf32=tf32
    )
    return plan


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _planned(
    method: str,
    numbers: tuple[float, float, str],
    size: int,
    tolerance: float,
    *,
    precisions: tuple[torch.dtype, ...],
    tf32: bool,
) -> Plan | str:
    """Fits are made on the host: torch.compile takes the plan as it is, and does not trace them."""
    transfer = Transfer(*numbers)
    if method == "auto":
        return automatic_plan(transfer, size, tolerance, precisions, tf32=tf32) or "eigh"
    return make_plan(method, transfer, size, tolerance, precisions, tf32=tf32)


def transfer_amplitude(matrix: Tensor, alpha: float, damping: float, normalize: str) -> Tensor:
    """Largest value of T on [0, sigma_1], ``[..., 1, 1]``; sigma_1 normalised as spectral_transfer.

    T rises up to sigma = (damping / (alpha - 1))^(1/alpha) for alpha > 1, and everywhere for
    alpha <= 1. sigma_1 is taken from a bound that is up to 0.1 % too high, so the amplitude may be
    too, and never too low: dividing by it leaves singular values <= 1. It is exact for "spectral".
    For a matrix of zeros it is 1, so that dividing by it is always possible. No decomposition.
    """
    unit, peak, finite = _unit_peak(matrix, _widest(matrix.device))
    short = unit.mT if unit.shape[-2] > unit.shape[-1] else unit
    length = torch.linalg.matrix_norm(short, keepdim=True)
    nonzero = finite & (length > 0)
    short = short * inverse(length)
    gram = short @ short.mT
    size = max(1, gram.shape[-1])
    largest = spectral_bound(gram, spectral_squarings(size, _AMPLITUDE_SLACK))
    scales = {
        "none": peak * length,
        "frobenius": 1.0,
        "rms": math.sqrt(size),
        "spectral": inverse(largest),
        "schatten8": inverse(schatten8_bound(gram)),
    }
    top = largest * scales[base.choice("normalize", normalize, NORMALIZATIONS)]
    if alpha > 1:
        top = top.clamp(max=(damping / (alpha - 1)) ** (1 / alpha))
    return torch.where(nonzero, top / (top**alpha + damping), 1.0)


def with_frobenius_norm(matrix: Tensor, norm: float) -> Tensor:
    """Scale each matrix of ``[..., m, n]`` to Frobenius norm ``norm``; zero stays zero."""
    if matrix.numel() == 0:
        return matrix.clone()
    unit, _, finite = _unit_peak(matrix, _widest(matrix.device))
    length = torch.linalg.matrix_norm(unit, keepdim=True)
    scaled = unit * torch.where(length > 0, norm / length, 0.0)
    return torch.where(finite, scaled, math.nan).to(matrix.dtype)


def _unit_peak(matrix: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Split into (matrix with largest entry 1, that entry, whether all entries are finite).

    With the largest entry at 1 no square can overflow or vanish. Where not finite, unit is 0.
    """
    work = matrix.to(wide)
    peak = work.abs().amax(dim=(-2, -1), keepdim=True)
    finite = peak.isfinite()
    peak = torch.where(finite & (peak > 0), peak, 1.0)
    return torch.where(finite, work / peak, 0.0), peak, finite


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _tensor_float() -> bool:
    """Whether float32 products on CUDA are rounded to TensorFloat-32; torch.compile can't ask."""
    own = str(torch.backends.cuda.matmul.fp32_precision)
    return (str(getattr(torch.backends, "fp32_precision", "")) if own == "none" else own) == "tf32"


def _gain(sigma: Tensor, peak: Tensor, normalize: str) -> Tensor:
    """Factor ``[..., 1, 1]`` from sigma ``[..., k, 1]`` of ``unit`` to normalised sigma."""
    if normalize == "none":
        return peak
    if normalize == "schatten8":
        largest = sigma.amax(dim=-2, keepdim=True)
        share = (sigma * inverse(largest)).pow(8).sum(dim=-2, keepdim=True)
        return inverse(largest * share.pow(1 / 8))
    if normalize == "spectral":
        return inverse(sigma.amax(dim=-2, keepdim=True))
    length = torch.linalg.vector_norm(sigma, dim=-2, keepdim=True)
    return inverse(length) * (math.sqrt(sigma.shape[-2]) if normalize == "rms" else 1.0)


def _transfer_eigh(unit: Tensor, peak: Tensor, transfer: Transfer) -> Tensor:
    eigenvalues, basis = torch.linalg.eigh(unit @ unit.mT)
    sigma = eigenvalues.clamp(min=0).sqrt().unsqueeze(-1)  # rounding leaves small negative ones
    gain = _gain(sigma, peak, transfer.normalize)
    factor = gain / ((sigma * gain) ** transfer.alpha + transfer.damping)
    transferred: Tensor = basis @ (factor * (basis.mT @ unit))
    return transferred


def _transfer_svd(unit: Tensor, peak: Tensor, transfer: Transfer) -> Tensor:
    left, singular_values, right = torch.linalg.svd(unit, full_matrices=False)
    sigma = singular_values.unsqueeze(-1)
    sigma = sigma * _gain(sigma, peak, transfer.normalize)
    factor = sigma / (sigma**transfer.alpha + transfer.damping)
    transferred: Tensor = left @ (factor * right)
    return transferred
