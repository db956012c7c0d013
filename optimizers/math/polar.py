"""Polar factor U V^T of a matrix U diag(sigma) V^T, by odd polynomials of degree 5 or by SVD.

A step maps X to a X + b X X^T X + c (X X^T)^2 X, that is sigma to a sigma + b sigma^3 + c sigma^5.
Everything takes ``[..., m, n]`` and returns its shape and dtype; a zero matrix maps to zero.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from optimizers import base

Quintic: TypeAlias = tuple[float, float, float]

MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
POLAR_METHODS = ("newton_schulz", "polar_express", "svd")
FORMS = ("auto", "direct", "gram")
# The long side, in short sides, from which on the Gram form is the cheaper one.
GRAM_FROM = 1.5
# Where an interval reaches below this times its upper end, Polar Express fits from here on only:
# the polynomial's slope at 0 stays at least as large, and its valleys shallow (their section 4.4).
CUSHION = 0.02407327424182761
SAFETY = 1.01
# A rounded Gram matrix has eigenvalues as far below 0 as this times eps, a step multiplies them by
# a^2, and from about -0.1 on the quintics blow up: form it anew before, and after 3 steps anyway.
_GRAM_ROUNDING, _GRAM_LIMIT, _GRAM_STEPS = 0.5, 0.1, 3


def polar(
    matrix: Tensor, method: str = "newton_schulz", steps: int = 5, form: str = "auto"
) -> Tensor:
    """U V^T of ``matrix`` ``[..., m, n]``, approximately.

    - ``newton_schulz``: Muon's coefficients; singular values end within about [0.7, 1.2].
    - ``polar_express``: the composition of ``steps`` quintics that is optimal on [1e-3, 1] (Amsel
      et al. 2025); of what starts above 1e-3 of the Frobenius norm, five steps leave
      |1 - sigma| <= 0.16, six 0.006, eight 1e-12.
    - ``svd``: exact, in float64 (float32 where there is none); what is zero to rounding stays zero.

    FLOPs with m <= n: steps (4 m^2 n + 2 m^3) in the direct form; see :func:`newton_schulz` for
    ``form``, which svd ignores, and for the precision.
    """
    base.choice("method", method, POLAR_METHODS)
    if method == "svd":
        return _polar_svd(matrix)
    if method == "newton_schulz":
        return newton_schulz(matrix, steps, form=form)
    return _compose(matrix, polar_express_coefficients(steps), form=form, safety=SAFETY)


def newton_schulz(
    matrix: Tensor,
    steps: int = 5,
    coefficients: tuple[float, ...] = MUON_COEFFICIENTS,
    eps: float = 1e-7,
    *,
    form: str = "direct",
    precision: torch.dtype | None = None,
) -> Tensor:
    """Muon's approximate polar factor U V^T of ``matrix`` ``[..., m, n]`` = U diag(sigma) V^T.

    Each step maps sigma to a sigma + b sigma^3 + c sigma^5, from sigma / max(||sigma||, eps); with
    Muon's coefficients the results spread over about [0.7, 1.2] instead of converging to 1.

    ``form``: ``direct`` multiplies the m x n matrix, steps (4 m^2 n + 2 m^3) FLOPs for m <= n;
    ``gram`` iterates on the m x m Gram matrix, as many steps at a time as its rounding allows: for
    five steps 8 m^2 n + 28 m^3, and 12 m^2 n + 22 m^3 in bfloat16; ``auto`` takes gram from
    n > 1.5 m on, where it is cheaper. They differ by rounding.

    ``precision`` is the dtype of the products; by default the given dtype on CPU, and on CUDA
    bfloat16 (float16 for gram); float64 stays float64 everywhere.

    Source: Jordan et al., "Muon" (2024); compared with torch.optim.Muon.
    """
    quintic = base.numbers("coefficients", coefficients, 3)
    steps = base.whole("steps", steps)
    return _compose(matrix, [quintic] * steps, form=form, eps=eps, precision=precision)


@functools.lru_cache(maxsize=64)
def polar_express_coefficients(
    steps: int, lower: float = 1e-3, safety: float = SAFETY
) -> tuple[Quintic, ...]:
    """(a, b, c) of each of ``steps`` quintics whose composition is nearest 1 on [lower, 1].

    Each is the minimax approximation of 1 on the interval into which the ones before map
    [lower, 1]. All but the last are of sigma / ``safety``, so that rounding cannot push a singular
    value out of the interval, where the polynomials grow fast.

    Source: Amsel et al., "The Polar Express" (2025, arXiv 2505.16932), Algorithm 2 and section 4.4;
    their published table is ``lower`` = 1e-3 before ``safety`` (to 1e-9; tested).
    """
    steps = base.whole("steps", steps)
    if not 0 < base.positive("lower", lower) < 1:
        raise ValueError(f"lower must be in (0, 1), got {lower!r}")
    upper, quintics = 1.0, []
    for _ in range(steps):
        quintic = _minimax_quintic(max(lower, CUSHION * upper), upper)
        # With the cushion, [lower, upper] maps to an interval that is not centred on 1 any more.
        centre = (_at(quintic, lower) + _at(quintic, upper)) / 2
        a, b, c = (value / centre for value in quintic)
        quintics.append((a, b, c))
        lower = _at((a, b, c), lower)
        upper = 2 - lower
    safe = [(a / safety, b / safety**3, c / safety**5) for a, b, c in quintics[:-1]]
    return (*safe, quintics[-1])


def _at(quintic: Quintic, x: float) -> float:
    a, b, c = quintic
    return x * (a + x * x * (b + x * x * c))


def _minimax_quintic(lower: float, upper: float) -> Quintic:
    """Odd quintic nearest 1 on [lower, upper], by Remez exchange on its four extrema."""
    if lower > (1 - 1e-4) * upper:  # the limit: rounding would decide where the extrema are
        centre = (lower + upper) / 2
        return 15 / 8 / centre, -10 / 8 / centre**3, 3 / 8 / centre**5
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    inner = [(3 * lower + upper) / 4, (lower + 3 * upper) / 4]
    level = math.inf
    for _ in range(200):
        points = torch.tensor([lower, *inner, upper], dtype=torch.float64)
        system = torch.stack((points, points**3, points**5, sign), dim=1)
        a, b, c, new = torch.linalg.solve(system, torch.ones_like(points)).tolist()
        if abs(new - level) <= 1e-15:
            break
        level = new
        root = math.sqrt(9 * b * b - 20 * a * c)  # a + 3 b x^2 + 5 c x^4 = 0 at the inner extrema
        inner = [math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))]
    return a, b, c


def _compose(
    matrix: Tensor,
    quintics: Sequence[tuple[float, ...]],
    *,
    form: str,
    eps: float = 1e-7,
    safety: float = 1.0,
    precision: torch.dtype | None = None,
) -> Tensor:
    """Apply the quintics one after another to matrix / (safety ||matrix||)."""
    base.choice("form", form, FORMS)
    if matrix.numel() == 0:
        return matrix.clone()
    short, long = sorted(matrix.shape[-2:])
    gram_form = form == "gram" or (form == "auto" and long > GRAM_FROM * short)
    if precision is None and matrix.is_cuda and matrix.dtype != torch.float64:
        precision = torch.float16 if gram_form else torch.bfloat16
    x = matrix.reshape(-1, *matrix.shape[-2:]).to(precision or matrix.dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (safety * x.norm(dim=(-2, -1), keepdim=True)).clamp(min=eps)
    if gram_form:
        for some in steps_per_gram(quintics, torch.finfo(x.dtype).eps):
            x = gram_factor(x @ x.mT, some) @ x
    else:
        x = direct_steps(x, quintics)
    x = x.mT if tall else x
    return x.reshape(matrix.shape).to(matrix.dtype)


def direct_steps(x: Tensor, quintics: Sequence[tuple[float, ...]]) -> Tensor:
    """Apply the quintics to a batch ``[B, m, n]``, m <= n, one after another."""
    for a, b, c in quintics:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def steps_per_gram(
    quintics: Sequence[tuple[float, ...]], eps: float
) -> list[Sequence[tuple[float, ...]]]:
    """Split the steps into runs that may share one Gram matrix, in a dtype of precision ``eps``."""
    runs, start, grown = [], 0, _GRAM_ROUNDING * eps
    for index, (a, _, _) in enumerate(quintics):
        if index == start + _GRAM_STEPS or (index > start and grown > _GRAM_LIMIT):
            runs.append(quintics[start:index])
            start, grown = index, _GRAM_ROUNDING * eps
        grown *= a * a
    return [*runs, quintics[start:]]


def gram_factor(gram: Tensor, quintics: Sequence[tuple[float, ...]]) -> Tensor:
    """The polynomial Q of gram = X X^T, ``[B, m, m]``: Q X is the quintics applied to X."""
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    total: Tensor | None = None
    for index, (a, b, c) in enumerate(quintics):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * eye
        if index + 1 < len(quintics):  # X <- factor X makes the next Gram factor gram factor
            gram = factor @ (factor @ gram)
        total = factor if total is None else factor @ total
    assert total is not None  # there is at least one quintic
    return total


def _polar_svd(matrix: Tensor) -> Tensor:
    if matrix.numel() == 0:
        return matrix.clone()
    wide = torch.float32 if matrix.device.type == "mps" else torch.float64
    left, sigma, right = torch.linalg.svd(matrix.to(wide), full_matrices=False)
    smallest = max(matrix.shape[-2:]) * torch.finfo(wide).eps * sigma[..., :1]
    factor: Tensor = left @ ((sigma > smallest).to(wide).unsqueeze(-1) * right)
    return factor.to(matrix.dtype)
