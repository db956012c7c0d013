"""The spectral transfer through the Gram matrix R = M M^T alone, U T(sigma) V^T = f(R) M."""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.gram_functions import (
    damped_solve,
    evaluate_chebyshev,
    evaluate_rational,
    inverse,
    spectral_bound,
    square_bound,
)
from optimizers.transfer_fit import PolynomialFit
from optimizers.transfer_methods import Plan, unit_roundoff


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
