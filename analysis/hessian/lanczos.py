"""The spectral norm of a symmetric operator, by Lanczos from a random start, with error bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import NamedTuple

import torch
from torch import Tensor

_FAILURE = 0.05  # of the upper end
_ROUNDING = 10  # times the machine's: what is left of a vector below it is nothing but rounding


class SpectralNorm(NamedTuple):
    """An estimate that is never too large, and its upper end, right in at least 95 % of starts."""

    estimate: float
    high: float


def lanczos(size: int, steps: int, start: Tensor) -> Generator[Tensor, Tensor, SpectralNorm]:
    """Estimate the spectral norm of a symmetric A [size, size]: a coroutine.

    It yields unit vectors v [size] and is sent A v, ``steps`` times at most, so that many
    operators can be applied together. Fully reorthogonalised.

    With V the orthonormal Krylov basis, A V_m = V_{m+1} T, and the estimate is the largest singular
    value of T [m + 1, m], that is the largest norm of A x over unit x in the span: a lower bound of
    the norm, for certain. The span contains the first p = (m + 1) // 2 Krylov vectors of A^2, which
    is positive semidefinite, so that with a start drawn uniformly from the sphere (Kuczynski and
    Wozniakowski 1992, SIAM J. Matrix Anal. Appl. 13, theorem 4.2)

        P( estimate^2 < (1 - e) norm^2 ) <= 1.648 sqrt(size) exp(-sqrt(e) (2p - 1)),

    whatever the spectrum; e is set so that the right side is 0.05. The upper end is infinite where
    the steps are too few for any such e below 1.

    Args:
        size: of the operator.
        steps: the most applications of A.
        start: [size] of independent standard normal numbers.
    """
    basis = start.new_zeros(min(steps, size) + 1, size)
    projected = torch.zeros(len(basis), len(basis) - 1, dtype=torch.float64)
    basis[0] = start / start.norm()
    exhausted = False
    for m in range(len(basis) - 1):
        product = yield basis[m]
        for _ in range(2):  # once leaves rounding that a second time removes
            parts = basis[: m + 1] @ product
            projected[: m + 1, m] += parts.double().cpu()
            product = product - parts @ basis[: m + 1]
        rest = float(product.norm())
        scale = float(projected[: m + 1, : m + 1].norm())
        used = m + 1
        if rest <= _ROUNDING * torch.finfo(start.dtype).eps * scale or used == size:
            exhausted = True  # the span is invariant: no other vector can be reached
            break
        projected[used, m] = rest
        basis[used] = product / rest
    estimate = float(torch.linalg.matrix_norm(projected[: used + 1, :used], ord=2))
    return SpectralNorm(estimate, estimate if exhausted else estimate * _excess(size, used))


def run_together(
    runs: list[Generator[Tensor, Tensor, SpectralNorm]],
    apply: Callable[[dict[int, Tensor]], dict[int, Tensor]],
) -> list[SpectralNorm]:
    """Drive several `lanczos` runs in step.

    ``apply`` takes the vectors of the runs that go on, by number, and returns their products.
    """
    vectors = {number: next(run) for number, run in enumerate(runs)}
    found: dict[int, SpectralNorm] = {}
    while vectors:
        products, vectors = apply(vectors), {}
        for number, product in products.items():
            try:
                vectors[number] = runs[number].send(product)
            except StopIteration as end:
                found[number] = end.value
    return [found[number] for number in range(len(runs))]


def _excess(size: int, steps: int) -> float:
    """Return what the estimate is multiplied by for the upper end."""
    order = 2 * ((steps + 1) // 2) - 1
    error = (math.log(1.648 * math.sqrt(size) / _FAILURE) / order) ** 2
    return 1 / math.sqrt(1 - error) if error < 1 else math.inf
