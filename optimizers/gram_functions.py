"""Functions of Gram matrices: pure, batched, without a host sync or a data-dependent branch.

Everything here can be compiled with fullgraph=True and captured in a CUDA graph. Matrix products
run in the dtype of ``gram`` (a GPU accumulates half precision in float32); what is element-wise is
done in float32 or wider and rounded once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def schatten8_bound(gram: Tensor) -> Tensor:
    """Upper bound ``[B, 1, 1]`` on sigma_1 of M from gram = M M^T ``[B, n, n]``; one product.

    It is the Schatten-8 norm (sum sigma^8)^(1/8) = ||gram^2||_F^(1/4), between sigma_1 and
    n^(1/8) sigma_1; the closer to sigma_1, the faster sigma falls. Float32 or wider. Scale M to
    Frobenius norm about n^(1/4) in half precision, so that nothing over- or underflows.
    """
    return square_bound(gram @ gram)


def square_bound(square: Tensor) -> Tensor:
    """:func:`schatten8_bound` for one who has ``square`` = gram @ gram already."""
    wide = torch.promote_types(square.dtype, torch.float32)
    return torch.linalg.vector_norm(square, dim=(-2, -1), keepdim=True, dtype=wide).sqrt().sqrt()


def paterson_stockmeyer(degree: int) -> tuple[int, int]:
    """(s, r) with s r >= degree and the fewest products, s + r - 2, in :func:`evaluate_chebyshev`.

    2 products for degree 4, 3 for 6, 4 for 9, 5 for 12, 6 for 16, 7 for 20, 8 for 25, 9 for 30.
    """
    pairs = ((s, math.ceil(degree / s)) for s in range(1, degree + 1))
    return min(pairs, key=lambda pair: (sum(pair), pair[0]))


def evaluate_chebyshev(gram: Tensor, coefficients: Tensor, square: Tensor | None = None) -> Tensor:
    """Sum over k of coefficients[:, k] T_k(2 gram - I), for a batch of Gram matrices.

    ``gram`` is ``[B, n, n]``, symmetric with eigenvalues in [0, 1], float64, float32, bfloat16 or
    float16; the result has its dtype. ``coefficients`` is ``[B, degree + 1]`` or ``[degree + 1]``,
    float32 or wider (each matrix may have its own function), with a sum of sizes of about 1, as
    :func:`optimizers.transfer_fit.polynomial_fit` makes them: scale the result afterwards.
    ``square``, if one has it, is gram @ gram, and saves one product.

    Paterson-Stockmeyer in the Chebyshev basis: with (s, r) of :func:`paterson_stockmeyer`, T_2 to
    T_s in s - 1 products, then Clenshaw's recurrence in T_s in r - 1 more. Each product is
    2 n^3 FLOPs for a matrix.
    """
    wide = torch.promote_types(gram.dtype, torch.float32)
    coefficients = torch.atleast_2d(coefficients).to(wide)
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
    blocks = list(padded.unflatten(-1, (giant + 1, baby)).unbind(-2))
    for j in range(giant - 1, 0, -1):
        inner = blocks[j][:, 1:]
        blocks[j] = torch.cat((blocks[j][:, :1], 2 * inner), dim=-1)
        below = blocks[j - 1]
        blocks[j - 1] = torch.cat((below[:, :1], below[:, 1:] - inner.flip(-1)), dim=-1)
    return blocks
