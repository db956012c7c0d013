"""Functions of Gram matrices R = M M^T: norms of M, polynomials and partial fractions of R.

Pure, batched, without a host sync or a data-dependent branch: everything here can be compiled with
fullgraph=True and captured in a CUDA graph. Matrix products run in the dtype of ``gram`` (a GPU
accumulates half precision in float32); what is element-wise is done in float32 or wider and rounded
once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def square_bound(square: Tensor) -> Tensor:
    """Upper bound ``[B, 1, 1]`` on sigma_1 of M, from square = gram @ gram, gram = M M^T.

    It is the Schatten-8 norm (sum sigma^8)^(1/8) = ||gram^2||_F^(1/4), between sigma_1 and
    n^(1/8) sigma_1; the closer to sigma_1, the faster sigma falls. Float32 or wider. In half
    precision scale M to Frobenius norm about n^(1/4), so that nothing over- or underflows.
    """
    return _frobenius(square).sqrt().sqrt()


def schatten8_bound(gram: Tensor) -> Tensor:
    """:func:`square_bound` of gram @ gram, for one who does not need that product itself."""
    return square_bound(gram @ gram)


def spectral_squarings(size: int, slack: float) -> int:
    """Squarings after which :func:`spectral_bound` is <= (1 + slack) sigma_1, for n = ``size``."""
    order = math.log(size) / math.log1p(slack)
    return max(1, math.ceil(math.log2(max(order, 1.0))) - 2)


def spectral_bound(gram: Tensor, squarings: int, square: Tensor | None = None) -> Tensor:
    """Upper bound ``[B, 1, 1]`` on sigma_1 of M: Schatten norm of order 2^(squarings + 2).

    Between sigma_1 and n^(1 / 2^(squarings + 2)) sigma_1, by repeated squaring of the Gram matrix,
    each time scaled to Frobenius norm 1; a rounding error counts the less, the later it is made.
    ``square``, if one has it, is gram @ gram.
    """
    length = _frobenius(gram)
    bound, root = length.sqrt(), 0.5
    power = gram * inverse(length).to(gram.dtype)
    for index in range(squarings):
        if index == 0 and square is not None:
            power = square * inverse(length.square()).to(gram.dtype)
        else:
            power = power @ power
        length, root = _frobenius(power), root / 2
        bound = bound * length**root
        power = power * inverse(length).to(gram.dtype)
    return bound


def _frobenius(batch: Tensor) -> Tensor:
    wide = torch.promote_types(batch.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(batch, dim=(-2, -1), keepdim=True, dtype=wide)
    return norm


def inverse(value: Tensor) -> Tensor:
    """1 / value, and 0 for 0."""
    return torch.where(value > 0, 1 / value, 0.0)


def paterson_stockmeyer(degree: int) -> tuple[int, int]:
    """(s, r) with s r >= degree and the fewest products, s + r - 2, in :func:`evaluate_chebyshev`.

    2 products for degree 4, 3 for 6, 4 for 9, 5 for 12, 6 for 16, 7 for 20, 8 for 25, 9 for 30.
    """
    best = (1, degree)
    for s in range(2, degree + 1):  # a plain loop: torch.compile cannot trace min() of a generator
        r = -(-degree // s)
        if s + r < sum(best):
            best = (s, r)
    return best


def evaluate_chebyshev(gram: Tensor, coefficients: Tensor, square: Tensor | None = None) -> Tensor:
    """Sum over k of coefficients[:, k] T_k(2 gram - I), for a batch of Gram matrices.

    ``gram`` is ``[B, n, n]``, symmetric with eigenvalues in [0, 1], float64, float32, bfloat16 or
    float16; the result has its dtype. ``coefficients`` is ``[B, degree + 1]`` or ``[degree + 1]``,
    float32 or wider (each matrix may have its own function), with a sum of sizes of about 1, as
    :func:`optimizers.math.fits.polynomial_fit` makes them: scale the result afterwards.
    ``square``, if one has it, is gram @ gram, and saves one product.

    Paterson-Stockmeyer in the Chebyshev basis: with (s, r) of :func:`paterson_stockmeyer`, T_2 to
    T_s in s - 1 products, then Clenshaw's recurrence in T_s in r - 1 more. Each product is
    2 n^3 FLOPs for a matrix.

    Rounding adds to a transfer computed with it at most the fit's ``sensitivity`` times 5e-7 in
    float32, 5e-4 in float16, 4e-3 in bfloat16 (float64: 1e-15). Seen for alpha = 2, as a share of
    the largest value of T: d = 0.1 0.1 % in float16 and 1 % in bfloat16; d = 0.01 0.7 % and 7 %.
    """
    wide = torch.promote_types(gram.dtype, torch.float32)
    coefficients = coefficients.reshape(-1, coefficients.shape[-1]).to(wide)
    degree = coefficients.shape[-1] - 1
    eye = torch.eye(gram.shape[-1], dtype=wide, device=gram.device)
    if degree == 0:
        return (coefficients[:, :1, None] * eye).to(gram.dtype).expand_as(gram)
    baby, giant = paterson_stockmeyer(degree)
    blocks = _clenshaw_blocks(coefficients, baby, giant)
    powers = _baby_steps(gram, eye, baby, square)
    top, y = blocks[giant][:, 0, None, None], powers[-1]

    def block(index: int) -> Tensor:
        total = blocks[index][:, 0, None, None] * eye
        for i in range(1, baby):
            total = total + blocks[index][:, i, None, None] * powers[i - 1]
        return total

    if giant == 1:
        return (block(0) + top * y).to(gram.dtype)
    # b_r = top I needs no product with y, so b_{r-1} and the step after it are spelt out.
    previous, current = top * eye, (block(giant - 1) + 2 * top * y).to(gram.dtype)
    for index in range(giant - 2, -1, -1):
        rest = (block(index) - previous).to(gram.dtype)
        previous, current = current, torch.baddbmm(rest, y, current, alpha=2 if index else 1)
    return current


def _baby_steps(gram: Tensor, eye: Tensor, baby: int, square: Tensor | None) -> list[Tensor]:
    """T_1 to T_baby of 2 gram - I, in the dtype of gram."""
    first = (2 * gram.to(eye.dtype) - eye).to(gram.dtype)
    powers = [first]
    for k in range(2, baby + 1):
        low, high = k // 2, k - k // 2
        if k == 2 and square is not None:
            second = 8 * (square.to(eye.dtype) - gram) + eye
            powers.append(second.to(gram.dtype))
            continue
        rest = powers[0] if high > low else eye.to(gram.dtype).expand_as(gram)
        powers.append(torch.baddbmm(rest, powers[low - 1], powers[high - 1], beta=-1, alpha=2))
    return powers


def _clenshaw_blocks(coefficients: Tensor, baby: int, giant: int) -> list[Tensor]:
    """c_0, ..., c_giant ``[B, baby]`` with p = sum over j, i of c_ji T_i T_j(T_baby).

    From T_(js+i) = 2 T_i T_js - T_(js-i), highest block first. Block ``giant`` is a number.
    """
    missing = (giant + 1) * baby - coefficients.shape[-1]
    padded = torch.nn.functional.pad(coefficients, (0, missing))
    blocks = list(padded.reshape(-1, giant + 1, baby).unbind(-2))
    for j in range(giant - 1, 0, -1):
        inner = blocks[j][:, 1:]
        blocks[j] = torch.cat((blocks[j][:, :1], 2 * inner), dim=-1)
        below = blocks[j - 1]
        blocks[j - 1] = torch.cat((below[:, :1], below[:, 1:] - inner.flip(-1)), dim=-1)
    return blocks


def evaluate_rational(gram: Tensor, c0: Tensor, weights: Tensor, poles: Tensor) -> Tensor:
    """c0 I + sum over j of weights[:, j] (gram + poles[:, j] I)^-1, for a batch ``[B, n, n]``.

    ``c0`` is ``[B]`` or one number, ``weights`` and ``poles`` ``[B, J]`` or ``[J]``, all poles and
    weights > 0 (weight 0 switches a pole off). Float32 or float64: with float32 the smallest pole
    should be >= 1e-5, or rounding can make a factor NaN. All B J Cholesky factors in one call;
    n^3 / 3 for the factor, n^3 for its inverse L^-1, 2 n^3 for L^-T L^-1: 10/3 J n^3 FLOPs.
    """
    size = gram.shape[-1]
    weights = weights.reshape(-1, weights.shape[-1], 1, 1).to(gram.dtype)
    poles = poles.reshape(-1, poles.shape[-1], 1, 1).to(gram.dtype)
    eye = torch.eye(size, dtype=gram.dtype, device=gram.device)
    shifted = gram.unsqueeze(1) + poles * eye  # [B, J, n, n]
    factor = torch.linalg.cholesky_ex(shifted).L
    inverses = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
    rows = (weights.sqrt() * inverses).flatten(1, 2)
    constant = c0.to(gram.dtype).reshape(-1, 1, 1) * eye
    return torch.baddbmm(constant.expand_as(gram), rows.mT, rows)


def damped_solve(gram: Tensor, damping: Tensor, matrix: Tensor) -> Tensor:
    """(gram + damping I)^-1 matrix, for ``[B, n, n]``, ``[B, 1, 1]`` and ``[B, n, k]``.

    n^3 / 3 + 2 n^2 k FLOPs. Two triangular solves: torch.cholesky_solve cannot be captured.
    """
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky_ex(gram + damping * eye).L
    half = torch.linalg.solve_triangular(factor, matrix, upper=False)
    solution: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    return solution
