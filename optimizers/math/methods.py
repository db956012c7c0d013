"""The ways to compute the spectral transfer: which to take, what it costs, how far it may be off.

- ``eigh``: eigendecomposition of the smaller Gram matrix, whose eigenvalue x = sigma^2 gives the
  factor 1 / (x^(alpha/2) + damping), and ``svd``, the reference. In float64 (float32 where there is
  none): 1e-14 / damping for svd and for eigh from alpha = 2 on, with normalised sigma; eigh below 2
  sees a sigma under 1e-7 sigma_1 with error 1e-7.
- ``cholesky``: alpha = 2 only, one damped solve; exact but for rounding.
- ``polynomial``: the minimax polynomial of the lowest Paterson-Stockmeyer degree that serves;
  ``tolerance``. Small damping asks for degrees above 64: refused.
- ``rational``: alpha <= 2, a few positive definite solves; ``tolerance``. Above 2 the poles of
  1 / (x^(alpha/2) + damping) are complex.
- ``auto``: on the CPU, and for float64 anywhere, accuracy first: eigh, or cholesky where alpha is 2
  and sigma_1 need not be known. Else ``tolerance``, through the first of polynomial, then cholesky
  (alpha = 2) or rational (alpha < 2), then eigh, that reaches it. "none" takes eigh, but off the
  CPU cholesky in float64 at alpha = 2. With tolerance 0.01 and sigma <= 1, what is left to the slow
  eigh is an alpha just above 2 with a damping of 1e-3 or less: up to alpha = 2.1 at 1e-3, 2.4 at
  3e-4, 3 at 1e-4.

The three fast ones need the Gram matrix R = M M^T alone: U T(sigma) V^T = f(R) M. They know sigma_1
for the norm "spectral" up to a bound that is a quarter of ``tolerance`` too high at most, which is
in their ``tolerance`` along with rounding, and refuse sigma that are not normalised (but for
cholesky).

``error`` everywhere: the spectral norm of (computed - exact), over the largest value that T takes
on [0, limit], limit being the largest normalised sigma there can be: 1, or sqrt(min(m, n)) for rms.
A matrix whose sigma all lie where T is small sees a larger error relative to its own result.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from optimizers import base
from optimizers.math.fits import (
    CHEAP_DEGREES,
    MAX_POLES,
    PolynomialFit,
    RationalFit,
    fit_poles,
    polynomial_fit,
    rational_fit,
)
from optimizers.math.gram import (
    damped_solve,
    evaluate_chebyshev,
    evaluate_rational,
    inverse,
    paterson_stockmeyer,
    spectral_bound,
    spectral_squarings,
    square_bound,
)

NORMALIZATIONS = ("none", "frobenius", "rms", "spectral", "schatten8")
METHODS = ("auto", "eigh", "svd", "cholesky", "polynomial", "rational")
# Rounding in float64, of the reference that a bound is compared with too.
_FLOOR = 1e-13


class Transfer(NamedTuple):
    """What is to be computed: T(sigma) = sigma / (sigma^alpha + damping), sigma normalised."""

    alpha: float
    damping: float
    normalize: str


class Plan(NamedTuple):
    """How to compute ``transfer`` of matrices with a given short side.

    ``fit`` is of f for s = sigma / limit in [0, 1], limit being the largest normalised sigma;
    ``squarings`` serve the norm "spectral"; ``error`` is the bound on the error, and inf where
    there is none ("none" with "cholesky").
    """

    method: str
    transfer: Transfer
    precision: torch.dtype
    limit: float
    fit: PolynomialFit | RationalFit
    squarings: int
    error: float


@functools.lru_cache(maxsize=1024)
def make_plan(
    method: str,
    transfer: Transfer,
    size: int,
    tolerance: float,
    precisions: tuple[torch.dtype, ...],
    *,
    tf32: bool = False,
) -> Plan:
    """The cheapest plan of a fast ``method`` whose error is at most ``tolerance``.

    ``size`` is the short side; ``precisions`` are the dtypes that products may run in, the fastest
    first; ``tf32`` says that float32 products are rounded to TensorFloat-32.

    Raises ValueError where ``method`` cannot serve alpha or ``normalize``, or nothing it has
    reaches ``tolerance``.
    """
    alpha, damping, normalize = transfer
    if normalize == "none" and method != "cholesky":
        raise ValueError(
            f"method {method!r} needs sigma <= 1: choose a normalize other than 'none', or 'eigh'"
        )
    limit = math.sqrt(size) if normalize == "rms" else 1.0
    slack = _slack(alpha, tolerance) if normalize == "spectral" else 0.0
    squarings = spectral_squarings(size, slack) if slack else 0
    best = math.inf
    for precision in precisions:
        unit = unit_roundoff(precision, tf32=tf32)
        for fit in _fits(method, alpha, damping / limit**alpha):
            if normalize == "none":
                return Plan(method, transfer, precision, limit, fit, 0, math.inf)
            if isinstance(fit, RationalFit) and min(fit.poles) < 2 * math.sqrt(size) * unit:
                break  # rounding could make a factor indefinite, and more poles lie lower
            error = fit.error + slack * max(1.0, alpha - 1) + unit * fit.sensitivity + _FLOOR
            if error <= tolerance:
                return Plan(method, transfer, precision, limit, fit, squarings, error)
            best = min(best, error)
    names = ", ".join(str(precision).removeprefix("torch.") for precision in precisions)
    raise ValueError(
        f"method {method!r} in {names} reaches error {best:.2g} at best, not tolerance "
        f"{tolerance:g}, at alpha={alpha:g}, damping={damping:g}; allow more, or use 'eigh'"
    )


def automatic_plan(
    transfer: Transfer,
    size: int,
    tolerance: float,
    precisions: tuple[torch.dtype, ...],
    *,
    tf32: bool = False,
) -> Plan | None:
    """The plan of method "auto" off the CPU for input below float64; None stands for eigh.

    The first that reaches ``tolerance``: a polynomial up to degree 64; then one damped solve at
    alpha = 2, rational below. Raw sigma ("none") takes a solve in float64 at alpha = 2, eigh else.
    """
    if transfer.normalize == "none":
        if transfer.alpha != 2 or torch.float64 not in precisions:
            return None
        # In float32 the rounding of a large Gram matrix would hide the damping.
        return make_plan("cholesky", transfer, size, tolerance, (torch.float64,))
    methods = ["polynomial", *(["cholesky"] if transfer.alpha == 2 else ["rational"])]
    for method in methods if transfer.alpha <= 2 else methods[:1]:
        solvable = tuple(p for p in precisions if p in (torch.float32, torch.float64))
        usable = precisions if method == "polynomial" else solvable
        try:
            return make_plan(method, transfer, size, tolerance, usable, tf32=tf32)
        except ValueError:
            continue
    return None


def available_precisions(
    method: str, device: torch.device, dtype: torch.dtype
) -> tuple[torch.dtype, ...]:
    """The dtypes that products may run in, the fastest first.

    On the CPU float64, as for float64 input anywhere; else float16 with float32 accumulation,
    float32, and where there is one float64. Solves need at least float32.
    """
    if device.type == "cpu" or dtype == torch.float64:
        return (torch.float64,)
    wide = (torch.float32,) if device.type == "mps" else (torch.float32, torch.float64)
    return wide if method in ("cholesky", "rational") else (torch.float16, *wide)


def unit_roundoff(precision: torch.dtype, *, tf32: bool = False) -> float:
    """What a product in ``precision`` is counted to add to its result, relative to its largest.

    Half precision is rounded once, after accumulation in float32: eps / 2. Float32 and float64
    accumulate their own roundings: 4 eps.
    """
    if precision in (torch.float16, torch.bfloat16):
        return torch.finfo(precision).eps / 2
    return 2.0**-11 if tf32 and precision == torch.float32 else 4 * torch.finfo(precision).eps


def transfer_flops(
    method: str, rows: int, cols: int, *, degree: int = 0, poles: int = 1, squarings: int = 0
) -> float:
    """Floating-point operations of one ``rows x cols`` matrix, m its short side and n its long.

    4 m^2 n for the Gram matrix and for applying the factor to M, in all but svd, and then

    - ``polynomial``: 2 m^3 for each product, s + r - 2 of them at ``degree`` = s r (the bound of
      schatten8 included, whose square of the Gram matrix is one of them);
    - ``rational``: 10/3 m^3 for each of ``poles``;
    - ``cholesky``: m^3 / 3, and the two triangular solves m^2 n each in place of the factor (on
      CUDA, where they are slow, it is done as rational with one pole);
    - ``eigh``: about 9 m^3 (tridiagonal divide and conquer), and once more 2 m^2 n;
    - ``svd``: about 4 m^2 n + 22 m^3, and 2 m^2 n.

    The norm "spectral" adds 2 m^3 for each of ``squarings`` (in polynomial, for all but the first).
    """
    base.choice("method", method, METHODS[1:])
    m, n = min(rows, cols), max(rows, cols)
    extra = 2.0 * m**3 * squarings
    if method == "polynomial":
        products = sum(paterson_stockmeyer(degree)) - 2
        return 4.0 * m * m * n + 2.0 * m**3 * products + max(0.0, extra - 2.0 * m**3)
    if method == "rational":
        return 4.0 * m * m * n + 10 / 3 * m**3 * poles + extra
    if method == "cholesky":
        return 4.0 * m * m * n + m**3 / 3 + extra
    if method == "eigh":
        return 6.0 * m * m * n + 9.0 * m**3
    return 6.0 * m * m * n + 22.0 * m**3


def _slack(alpha: float, tolerance: float) -> float:
    """How far above sigma_1 its bound may lie, to spend a quarter of ``tolerance`` on it.

    sigma T'(sigma) / T(sigma) lies between 1 - alpha and 1.
    """
    return tolerance / 4 / max(1.0, alpha - 1)


def _fits(method: str, alpha: float, damping: float) -> Iterable[PolynomialFit | RationalFit]:
    """Fits of rising cost, at least one; ValueError where ``method`` cannot serve alpha."""
    if method == "polynomial":
        return (polynomial_fit(alpha, damping, degree) for degree in CHEAP_DEGREES)
    if method == "cholesky" and alpha != 2:
        raise ValueError(f"method 'cholesky' needs alpha = 2, got {alpha:g}; use 'auto'")
    if alpha >= 2:  # one exact pole, or the refusal
        return (rational_fit(alpha, damping, 1.0),)
    return (fit_poles(alpha, damping, count) for count in range(1, MAX_POLES + 1))


def transfer_by_gram(unit: Tensor, peak: Tensor, plan: Plan) -> Tensor:
    """T of ``peak`` * ``unit``, a batch ``[B, m, n]`` with m <= n, by the plan of a fast method.

    ``unit`` (float32 or wider) has largest entry 1 or is zero; ``peak`` is ``[B, 1, 1]``. The
    result has the dtype of ``unit``. The fit's numbers are sent to the device, nothing comes back.
    """
    # Frobenius norm m^(1/4) keeps the Gram matrix and its square within the range of float16.
    root = unit.shape[-2] ** 0.25
    transfer = plan.transfer  # torch 2.11 cannot compile its unpacking
    length: Tensor = torch.linalg.matrix_norm(unit, keepdim=True)
    x = (unit * (root * inverse(length))).to(plan.precision)
    gram = x @ x.mT
    if plan.method == "cholesky" and transfer.normalize == "none":
        return _raw_solve(x / root, gram / root**2, peak * length, transfer.damping).to(unit.dtype)
    square = gram @ gram if transfer.normalize in ("spectral", "schatten8") else None
    scale = _scale(gram, square, plan)
    gain = scale * plan.limit ** (1 - transfer.alpha)
    if isinstance(plan.fit, PolynomialFit):
        gain = gain * plan.fit.scale
    moved: Tensor = _apply(gram, square, scale, plan, x).to(unit.dtype) * gain.to(unit.dtype)
    return moved


def _scale(gram: Tensor, square: Tensor | None, plan: Plan) -> Tensor:
    """``[B, 1, 1]``: what to multiply sigma of x with, for sigma = limit to become 1."""
    if square is None:
        wide = torch.promote_types(gram.dtype, torch.float32)
        return torch.full_like(gram[:, :1, :1], gram.shape[-1] ** -0.25, dtype=wide)
    if plan.transfer.normalize == "spectral":
        bound = spectral_bound(gram, plan.squarings, square)
    else:
        bound = square_bound(square)
    # A polynomial grows fast beyond 1: rounding must not push sigma_1 there.
    return inverse(bound * (1 + unit_roundoff(plan.precision)))


def _apply(gram: Tensor, square: Tensor | None, scale: Tensor, plan: Plan, x: Tensor) -> Tensor:
    """f(R) x in the plan's precision, divided by the polynomial's scale if it is one."""
    fit, dtype = plan.fit, plan.precision
    gram = (gram * scale.square()).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    if isinstance(fit, PolynomialFit):
        if square is not None:
            square = (square * scale.square().square()).to(dtype)
        coefficients = torch.tensor(fit.coefficients, dtype=wide, device=gram.device)
        return evaluate_chebyshev(gram, coefficients, square) @ x
    numbers = torch.tensor([fit.c0, *fit.weights, *fit.poles], dtype=wide, device=gram.device)
    count = len(fit.poles)
    if plan.method == "cholesky" and not gram.is_cuda:  # there the solves cost 5 times the inverse
        return damped_solve(gram, numbers[-1], x)
    return evaluate_rational(gram, numbers[0], numbers[1 : count + 1], numbers[count + 1 :]) @ x


def _raw_solve(x: Tensor, gram: Tensor, norm: Tensor, damping: float) -> Tensor:
    """(M M^T + d I)^-1 M for M = norm * x, ||x|| = 1, gram = x x^T; norm^2 / d may overflow.

    With k = norm^2 / d it is (norm / d) (k gram + I)^-1 x; for k > 1 all is divided by k.
    """
    norm = norm.to(gram.dtype)
    ratio = norm.square() / damping
    floor = gram.shape[-1] * torch.finfo(gram.dtype).eps
    shift = (1 / ratio).clamp(min=floor, max=1.0)
    gain = torch.where(ratio > 1, inverse(norm), norm / damping)
    return damped_solve(gram * ratio.clamp(max=1.0), shift, x) * gain
