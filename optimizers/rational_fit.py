"""Partial fractions of the transfer's matrix function, made once on the host and cached.

For 0 < alpha < 2, f(x) = 1 / (x^(alpha/2) + d) is a Stieltjes function: the integral over mu > 0 of
w(mu) / (x + mu), with w > 0. A few real poles then do what no polynomial can near x = 0:

    f(x) ~ c0 + sum over j of weights[j] / (x + poles[j]),    weights, poles > 0,

so that f(R) M is a handful of positive definite solves, for any damping. At alpha = 2 the one pole
d is exact. Above 2 f has complex poles and no such form. The error is measured, and minimised, as
for the polynomials: see :mod:`optimizers.transfer_fit`.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from optimizers import checks
from optimizers.transfer_fit import alternation, transfer, transfer_peak

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
    alpha, damping = checks.positive("alpha", alpha), checks.positive("damping", damping)
    checks.positive("tolerance", tolerance)
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
