"""Polynomial fits of the transfer's matrix function, made once on the host and cached.

With R = M M^T and sigma_1(M) <= 1, U T(sigma) V^T = f(R) M for f(x) = 1 / (x^(alpha/2) + damping)
and x = sigma^2 in [0, 1]. What a polynomial p in place of f does to the result is measured by

    error = max over sigma in [0, 1] of |sigma p(sigma^2) - T(sigma)| / max over [0, 1] of T,

so that the computed matrix differs from the exact one by at most ``error`` times the largest value
that T takes on [0, 1], in the spectral norm. It is the minimax criterion of the fits here.

sigma p(sigma^2) is an odd polynomial, and sigma T_k(2 sigma^2 - 1) a Chebyshev system on (0, 1]:
the best p is found by Remez exchange, in that basis, never in powers of x.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from optimizers import checks

# The degrees that Paterson-Stockmeyer reaches with 2, 3, 4, ... matrix products.
CHEAP_DEGREES = (4, 6, 9, 12, 16, 20, 25, 30, 36, 42, 49, 56, 64)


class PolynomialFit(NamedTuple):
    """p(x) = scale * sum over k of coefficients[k] T_k(2 x - 1).

    ``scale`` is the largest |p| on [0, 1]: what is summed stays within [-1, 1], as half precision
    needs it (f(0) = 1 / damping). ``error`` is the criterion of the module docstring, and
    ``sensitivity`` how much of it a unit of error in p / scale, in x, or in both may add:
    max of |p| + sigma |p'|, over max T.
    """

    coefficients: tuple[float, ...]
    scale: float
    error: float
    sensitivity: float


def transfer(sigma: Tensor, alpha: float, damping: float) -> Tensor:
    """T(sigma) = sigma / (sigma^alpha + damping), element by element."""
    return sigma / (sigma**alpha + damping)


def transfer_peak(alpha: float, damping: float) -> float:
    """Largest value of T on [0, 1]: T rises up to (damping / (alpha - 1))^(1/alpha), if ever."""
    top = 1.0 if alpha <= 1 else min(1.0, (damping / (alpha - 1)) ** (1 / alpha))
    return float(top / (top**alpha + damping))


@functools.lru_cache(maxsize=1024)
def polynomial_fit(alpha: float, damping: float, degree: int) -> PolynomialFit:
    """The minimax polynomial of ``degree`` for (alpha, damping); float64, 2 to 100 ms, cached.

    Raises ValueError for alpha <= 0, damping <= 0, or degree < 1.
    """
    alpha, damping = checks.positive("alpha", alpha), checks.positive("damping", damping)
    count = checks.whole("degree", degree) + 1
    grid = _grid(degree)
    basis = grid.unsqueeze(1) * _chebyshev(grid, count)
    target = transfer(grid, alpha, damping) / transfer_peak(alpha, damping)
    coefficients = _remez(basis, target, grid, degree)
    values = _chebyshev(grid, count) @ coefficients
    at_zero = _chebyshev(grid.new_zeros(1), count) @ coefficients
    largest = max(values.abs().max().item(), at_zero.abs().max().item())
    error = (basis @ coefficients - target).abs().max().item()
    sensitivity = largest + (_chebyshev_slope(grid, count) @ coefficients).abs().max().item()
    scaled = tuple((coefficients / largest).tolist())
    scale = largest * transfer_peak(alpha, damping)
    # Between two points of the grid the error is larger by at most 1 part in 1,000 (tested).
    return PolynomialFit(scaled, scale, 1.001 * error + 1e-13, sensitivity)


def chebyshev_coefficients(alpha: float, damping: float, degree: int) -> tuple[float, ...]:
    """a_0, ..., a_degree with sum a_k T_k(2 x - 1) nearest f(x) = 1 / (x^(alpha/2) + damping).

    Nearest by the criterion of the module docstring. :func:`polynomial_fit` gives the same split
    into coefficients of size 1 and a scale, which low precision needs.
    """
    fit = polynomial_fit(alpha, damping, degree)
    return tuple(fit.scale * value for value in fit.coefficients)


def polynomial_error(alpha: float, damping: float, degree: int) -> float:
    """The bound on |sigma p(sigma^2) - T(sigma)| / max T, over sigma in [0, 1], at ``degree``."""
    return polynomial_fit(alpha, damping, degree).error


@functools.lru_cache(maxsize=1024)
def polynomial_degree(alpha: float, damping: float, tolerance: float) -> int:
    """Smallest of the cheap Paterson-Stockmeyer degrees whose error is at most ``tolerance``.

    Raises ValueError where even the largest, 64, does not reach it.
    """
    checks.positive("tolerance", tolerance)
    for degree in CHEAP_DEGREES:
        if polynomial_error(alpha, damping, degree) <= tolerance:
            return degree
    best = polynomial_error(alpha, damping, CHEAP_DEGREES[-1])
    raise ValueError(
        f"no polynomial of degree <= {CHEAP_DEGREES[-1]} has error <= {tolerance:g} at "
        f"alpha={alpha:g}, damping={damping:g} (best {best:.2g}); use method 'rational' or 'eigh'"
    )


def _grid(degree: int) -> Tensor:
    """Values of sigma in (0, 1], 40 to each half wave of the error, and geometric near 0."""
    count = 40 * (2 * degree + 3)
    angles = torch.arange(count + 1, dtype=torch.float64) * (math.pi / 2 / count)
    small = torch.logspace(-9, math.log10(min(1.0, 2 / degree)), 600, dtype=torch.float64)
    return torch.cat((angles.sin()[1:], small)).sort().values


def _chebyshev(sigma: Tensor, count: int) -> Tensor:
    """T_k(2 sigma^2 - 1) = cos(2 k acos(sigma)) for k < count, one column each."""
    order = 2 * torch.arange(count, dtype=torch.float64)
    angle = torch.acos(sigma.clamp(-1, 1)).unsqueeze(1)
    return torch.cos(angle * order)


def _chebyshev_slope(sigma: Tensor, count: int) -> Tensor:
    """Slope in x of T_k(2 x - 1), times sigma: k sin(2 k t) / sin t, where cos t = sigma."""
    angle = torch.acos(sigma.clamp(-1, 1)).clamp(min=1e-7).unsqueeze(1)
    order = torch.arange(count, dtype=torch.float64)
    return order * torch.sin(2 * order * angle) / torch.sin(angle)


def _remez(basis: Tensor, target: Tensor, grid: Tensor, degree: int) -> Tensor:
    """Coefficients that minimise the largest |basis @ c - target| on the grid."""
    count = degree + 2
    nodes = torch.cos(torch.arange(count, dtype=torch.float64).flip(0) * math.pi / (2 * degree + 3))
    chosen = torch.searchsorted(grid, nodes).clamp(max=len(grid) - 1)
    sign = (-1.0) ** torch.arange(count, dtype=torch.float64)
    best, smallest = basis.new_zeros(degree + 1), math.inf
    for _ in range(60):
        system = torch.cat((basis[chosen], sign.unsqueeze(1)), dim=1)
        solution = torch.linalg.solve(system, target[chosen])
        residual = basis @ solution[:-1] - target
        level, peak = solution[-1].abs().item(), residual.abs().max().item()
        if peak < smallest:
            best, smallest = solution[:-1], peak
        if peak <= level * (1 + 1e-4) + 1e-14:
            break
        chosen = alternation(residual, count)
        if chosen.numel() < count:
            break
    return best


def alternation(residual: Tensor, count: int) -> Tensor:
    """Indices of ``count`` alternating extrema of the residual, the largest one among them.

    Fewer where the residual, at rounding level, has not that many changes of sign.
    """
    positive = residual > 0
    runs = torch.cumsum(torch.cat((positive[:1], positive[1:] != positive[:-1])).long(), 0)
    runs = runs - runs[0]
    size = residual.abs()
    peaks = [int(torch.where(runs == run, size, -1.0).argmax()) for run in range(int(runs[-1]) + 1)]
    while len(peaks) > count:
        if (
            len(peaks) == count + 1
        ):  # drop the smaller end; between, signs would no longer alternate
            del peaks[0 if size[peaks[0]] < size[peaks[-1]] else -1]
            continue
        smallest = min(range(len(peaks)), key=lambda i: float(size[peaks[i]]))
        if smallest in (0, len(peaks) - 1):
            del peaks[smallest]
        else:  # with the lower of its neighbours, which have one sign
            first = smallest - int(size[peaks[smallest - 1]] < size[peaks[smallest + 1]])
            del peaks[first : first + 2]
    return torch.tensor(peaks)
