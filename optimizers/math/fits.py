"""Fits of the transfer's matrix function, by a polynomial or by partial fractions.

With R = M M^T and sigma_1(M) <= 1, U T(sigma) V^T = f(R) M for f(x) = 1 / (x^(alpha/2) + damping)
and x = sigma^2 in [0, 1]. What a fit p in place of f does to the result is measured, and minimised,
by

    error = max over sigma in [0, 1] of |sigma p(sigma^2) - T(sigma)| / max over [0, 1] of T,

so that the computed matrix differs from the exact one by at most ``error`` times the largest value
that T takes on [0, 1], in the spectral norm.

Polynomials: sigma p(sigma^2) is odd, and sigma T_k(2 sigma^2 - 1) a Chebyshev system on (0, 1]; the
best p is found by Remez exchange, in that basis, never in powers of x.

Partial fractions: for 0 < alpha < 2, f is a Stieltjes function, the integral over mu > 0 of
w(mu) / (x + mu) with w > 0. A few real poles then do what no polynomial can near x = 0:

    f(x) ~ c0 + sum over j of weights[j] / (x + poles[j]),    weights, poles > 0,

so that f(R) M is a handful of positive definite solves, for any damping. At alpha = 2 the one pole
d is exact. Above 2 f has complex poles and no such form.

All fits are made once, on the host in float64, and cached.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from optimizers import base

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
    alpha, damping = base.positive("alpha", alpha), base.positive("damping", damping)
    count = base.whole("degree", degree) + 1
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
    base.positive("tolerance", tolerance)
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
        # One too many: drop the smaller end; between, signs would no longer alternate.
        if len(peaks) == count + 1:
            del peaks[0 if size[peaks[0]] < size[peaks[-1]] else -1]
            continue
        smallest = min(range(len(peaks)), key=lambda i: float(size[peaks[i]]))
        if smallest in (0, len(peaks) - 1):
            del peaks[smallest]
        else:  # with the lower of its neighbours, which have one sign
            first = smallest - int(size[peaks[smallest - 1]] < size[peaks[smallest + 1]])
            del peaks[first : first + 2]
    return torch.tensor(peaks)


MAX_POLES = 10


class RationalFit(NamedTuple):
    """f(x) ~ c0 + sum of weights[j] / (x + poles[j]); error, sensitivity as of a PolynomialFit."""

    c0: float
    weights: tuple[float, ...]
    poles: tuple[float, ...]
    error: float
    sensitivity: float


def rational_poles(
    alpha: float, damping: float, tolerance: float
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """(c0, weights, poles) of the fewest poles whose error is at most ``tolerance``.

    Raises ValueError for alpha > 2, damping <= 0, or where 10 poles do not reach ``tolerance``.
    """
    return rational_fit(alpha, damping, tolerance)[:3]


@functools.lru_cache(maxsize=1024)
def rational_fit(alpha: float, damping: float, tolerance: float) -> RationalFit:
    """As :func:`rational_poles`, with the error reached; float64 on the host, cached."""
    alpha, damping = base.positive("alpha", alpha), base.positive("damping", damping)
    base.positive("tolerance", tolerance)
    if alpha > 2:
        raise ValueError(
            f"alpha must be <= 2 for real poles, got {alpha:g}; use method 'polynomial' or 'eigh'"
        )
    if alpha == 2:
        return _rational(alpha, damping, [0.0, 1.0, damping], 0.0)
    for count in range(1, MAX_POLES + 1):
        fit = fit_poles(alpha, damping, count)
        if fit.error <= tolerance:
            return fit
    raise ValueError(
        f"{MAX_POLES} poles reach only error {fit.error:.2g}, not {tolerance:g}, at "
        f"alpha={alpha:g}, damping={damping:g}; use method 'eigh'"
    )


@functools.lru_cache(maxsize=1024)
def fit_poles(alpha: float, damping: float, count: int) -> RationalFit:
    """The minimax fit with at most ``count`` poles, for 0 < alpha < 2.

    Least squares (Levenberg-Marquardt) brings the error to oscillate 2 count + 2 times; then the
    extrema are made level by Newton's method, exchanging them as Remez does. Where rounding hides
    the gain of one more pole (errors of about 1e-5), it is the fit with one fewer.
    """
    problem, fine = _problem(alpha, damping, 1000), _problem(alpha, damping, 8000)
    fewer = fit_poles(alpha, damping, count - 1) if count > 1 else None
    starts = [_even_poles(alpha, damping, count)] + ([_one_more(fewer.poles)] if fewer else [])
    fits = [_level(problem, _least_squares(problem, _with_weights(problem, s))) for s in starts]
    errors = [fine.residual(fit).abs().max().item() for fit in fits]
    # Between two points of the fine grid it is larger by at most 1 part in 10,000 (tested).
    error = 1.0001 * min(errors) + 1e-13
    if fewer is not None and fewer.error <= error:
        return fewer
    best = fits[errors.index(min(errors))]
    linear = torch.cat((best[:1], best[1 : count + 1].exp())) * transfer_peak(alpha, damping)
    return _rational(alpha, damping, linear.tolist() + best[count + 1 :].exp().tolist(), error)


def _rational(alpha: float, damping: float, numbers: list[float], error: float) -> RationalFit:
    """The fit with (c0, weights ..., poles ...) = ``numbers``, and its sensitivity."""
    count = len(numbers) // 2
    c0, weights, poles = numbers[0], numbers[1 : count + 1], numbers[count + 1 :]
    at_zero = abs(c0) + sum(w / mu for w, mu in zip(weights, poles, strict=True))
    sigma = torch.logspace(-8, 0, 1600, dtype=torch.float64)
    terms = (w * sigma / (sigma**2 + mu) ** 2 for w, mu in zip(weights, poles, strict=True))
    slope = torch.stack(list(terms)).sum(0).max().item()
    sensitivity = (at_zero + slope) / transfer_peak(alpha, damping)
    return RationalFit(c0, tuple(weights), tuple(poles), error, sensitivity)


class _Problem(NamedTuple):
    """sigma (c0 + sum w_j / (sigma^2 + mu_j)) ~ target; theta = (c0, log w_j ..., log mu_j ...)."""

    sigma: Tensor
    target: Tensor

    def residual(self, theta: Tensor) -> Tensor:
        terms = self._terms(theta)[0]
        return self.sigma * (theta[0] + terms.sum(1)) - self.target

    def jacobian(self, theta: Tensor) -> Tensor:
        terms, share = self._terms(theta)
        columns = torch.cat((torch.ones_like(terms[:, :1]), terms, -terms * share), dim=1)
        return self.sigma.unsqueeze(1) * columns

    def _terms(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        count = len(theta) // 2
        weights, poles = theta[1 : count + 1].exp(), theta[count + 1 :].exp()
        below = self.sigma.square().unsqueeze(1) + poles
        return weights / below, poles / below


def _problem(alpha: float, damping: float, points: int) -> _Problem:
    """Sigma in (0, 1], mostly geometric: the errors of such fits are waves in log sigma."""
    geometric = torch.logspace(-8, 0, points, dtype=torch.float64)
    linear = torch.linspace(0.1, 1, points // 5, dtype=torch.float64)
    sigma = torch.cat((geometric, linear)).sort().values
    return _Problem(sigma, transfer(sigma, alpha, damping) / transfer_peak(alpha, damping))


def _even_poles(alpha: float, damping: float, count: int) -> Tensor:
    """Logarithms of ``count`` poles spread evenly from where T bends to beyond 1."""
    low = math.log(max(damping ** (2 / alpha), 1e-8) / 2)
    return torch.linspace(low, 1.0, count + 2, dtype=torch.float64)[1:-1]


def _one_more(poles: tuple[float, ...]) -> Tensor:
    """Logarithms of one pole more, placed as ``poles`` are."""
    known = torch.tensor(poles, dtype=torch.float64).log().sort().values
    gap = (known[-1:] - known[:1]) / (len(known) - 1) if len(known) > 1 else known.new_tensor([3.0])
    ends = torch.cat((known[:1] - gap, known, known[-1:] + gap))
    return (ends[1:] + ends[:-1]) / 2


def _with_weights(problem: _Problem, poles: Tensor) -> Tensor:
    """Complete the poles to theta, by linear least squares."""
    basis = problem.sigma.unsqueeze(1) / (problem.sigma.square().unsqueeze(1) + poles.exp())
    basis = torch.cat((problem.sigma.unsqueeze(1), basis), dim=1)
    linear = torch.linalg.lstsq(basis, problem.target.unsqueeze(1)).solution.squeeze(1)
    smallest = 1e-3 * linear[1:].abs().max()
    return torch.cat((linear[:1], linear[1:].clamp(min=smallest).log(), poles))


def _least_squares(problem: _Problem, theta: Tensor) -> Tensor:
    residual, jacobian = problem.residual(theta), problem.jacobian(theta)
    trust, idle = 1e-3, 0
    for _ in range(100):
        normal, gradient = jacobian.mT @ jacobian, jacobian.mT @ residual
        damped = normal + torch.diag(trust * normal.diagonal() + 1e-14)
        proposal = theta - torch.linalg.solve(damped, gradient).clamp(-1, 1)
        new = problem.residual(proposal)
        gain = 1 - (new.square().sum() / residual.square().sum()).item()
        if gain > 0:
            theta, residual, jacobian = proposal, new, problem.jacobian(proposal)
            trust = max(trust / 5, 1e-12)
            idle = idle + 1 if gain < 1e-4 else 0
            if idle == 4:  # enough to start from
                break
        else:
            trust = min(trust * 4, 1e6)
    return theta


def _level(problem: _Problem, theta: Tensor) -> Tensor:
    """Newton steps towards an error whose extrema are all of one size."""
    count = len(theta) + 1
    sign = (-1.0) ** torch.arange(count, dtype=torch.float64)
    residual = problem.residual(theta)
    for _ in range(40):
        chosen = alternation(residual, count)
        if chosen.numel() < count:
            break
        system = torch.cat((problem.jacobian(theta)[chosen], sign.unsqueeze(1)), dim=1)
        solution = torch.linalg.solve(system, -residual[chosen])
        largest, level = residual.abs().max(), solution[-1].abs()
        if largest <= level * (1 + 1e-4):
            break
        for shrink in (1.0, 0.5, 0.25, 0.1, 0.03, 0.01):
            proposal = theta + shrink * solution[:-1].clamp(-1, 1)
            new = problem.residual(proposal)
            if new.abs().max() < largest:
                break
        else:
            break
        theta, residual = proposal, new
    return theta
