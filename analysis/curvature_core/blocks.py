"""Norms of the blocks of a Hessian, as a table: exact of a dense one, else estimated.

Of a Hessian too large to form, from its products with vectors: Frobenius norms by Hutchinson's
probes, spectral norms by Lanczos from a random start, with error bars.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import combinations_with_replacement
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from analysis.curvature_core.products import Group, HessianProducts

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


Pair = tuple[Group, Group]


def pairs(groups: Sequence[Group]) -> list[Pair]:
    """Return the blocks on and above the diagonal; the others are their transposes."""
    return list(combinations_with_replacement(groups, 2))


def table(rows: Iterator[dict[str, Any]], level: str, method: str) -> pd.DataFrame:
    """Return rows as a table, with what the norms are by the number of entries.

    ``frobenius_per_entry`` is the root mean square of the entries, ``spectral_per_entry`` is
    the spectral norm over the square root of their number: at most the former.
    """
    found = pd.DataFrame(rows)
    found.insert(0, "level", level)
    found["method"] = method
    root = (found["row_size"] * found["col_size"]) ** 0.5
    for norm in ("frobenius", "spectral"):
        found[f"{norm}_per_entry"] = found[norm] / root
    return found


def exact_norms(hessian: Tensor, groups: Sequence[Group], level: str) -> pd.DataFrame:
    """Return one row a block of ``hessian`` [P, P], computed in float64.

    The spectral norm is the largest singular value. Columns: docs/curvature.md.
    """
    return table((_exact(hessian, pair) for pair in pairs(groups)), level, "exact")


def names(pair: Pair) -> dict[str, Any]:
    """Return what says which block it is."""
    row, col = pair
    return {
        "row": row.name,
        "col": col.name,
        "row_role": row.role,
        "col_role": col.role,
        "row_size": row.size,
        "col_size": col.size,
    }


def _exact(hessian: Tensor, pair: Pair) -> dict[str, Any]:
    row, col = pair
    rows = torch.cat([hessian[start:stop] for start, stop in row.spans])
    block = col.take(rows).double()
    frobenius = float(torch.linalg.matrix_norm(block))
    spectral = float(torch.linalg.matrix_norm(block, ord=2))
    return names(pair) | {
        "mean_abs": float(block.abs().mean()),
        "frobenius": frobenius,
        "frobenius_stderr": 0.0,
        "frobenius_low": frobenius,
        "frobenius_high": frobenius,
        "spectral": spectral,
        "spectral_high": spectral,
    }


def asymmetry(hessian: Tensor) -> float:
    """Return the largest abs(H_ij - H_ji) over the largest abs(H_ij): rounding, and no more."""
    largest, difference = 0.0, 0.0
    for start in range(0, len(hessian), 1024):
        rows = hessian[start : start + 1024]
        columns = hessian[:, start : start + 1024].T
        largest = max(largest, float(rows.abs().max()))
        difference = max(difference, float((rows - columns).abs().max()))
    return difference / largest if largest > 0 else math.nan


Array = NDArray[np.float64]
Blocks = Literal["all", "diagonal", "none"]
_SEED = 0


class Norm(NamedTuple):
    """A Frobenius norm with its standard error and 95 % interval."""

    value: float
    stderr: float
    low: float
    high: float


def estimated_norms(
    products: HessianProducts,
    groups: Sequence[Group],
    level: str,
    *,
    probes: int = 64,
    spectral: Blocks = "diagonal",
    steps: int = 40,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Return one row a block, the columns of `analysis.curvature_core.blocks.exact_norms`.

    mean_abs, and the spectral norms of blocks that are not asked for, are NaN.

    Args:
        products: of the Hessian with vectors.
        groups: that the parameters fall into.
        level: what the groups are, for the table.
        probes: random vectors a group for the Frobenius norms, each one product.
        spectral: of which blocks the spectral norm is estimated.
        steps: of Lanczos, each one product for a block of the diagonal, two for another.
        progress: called with (done, total) products.

    Raises:
        ValueError: fewer than 2 probes, or no step.
    """
    if probes < 2 or steps < 1:
        raise ValueError(f"needs 2 probes and 1 step at least, got {probes} and {steps}")
    chosen = {
        "all": pairs(groups),
        "diagonal": [(group, group) for group in groups],
        "none": [],
    }[spectral]
    total = probes * len(groups) + sum(_cost(pair) * _most(pair, steps) for pair in chosen)
    count = _Count(products, total, progress)
    norms = frobenius_norms(count, groups, probes)
    spectra: dict[tuple[str, str], SpectralNorm] = {}
    for start in range(0, len(chosen), len(groups)):  # so many bases at once, and no more
        spectra |= spectral_norms(count, chosen[start : start + len(groups)], steps)
    return table(_rows(groups, norms, spectra), level, "estimated")


class _Count:
    """Products that count themselves."""

    def __init__(
        self, products: HessianProducts, total: int, report: Callable[[int, int], None] | None
    ) -> None:
        self._products, self._report = products, report
        self._total, self._done = total * products.microbatches, 0
        self.size, self.device, self.dtype = products.size, products.device, products.dtype

    def __call__(self, vectors: Tensor) -> Tensor:
        return self._products(vectors, self._tick)

    def _tick(self) -> None:
        self._done += 1
        if self._report is not None:
            self._report(self._done, max(self._total, self._done))


def frobenius_norms(
    products: HessianProducts | _Count, groups: Sequence[Group], probes: int, seed: int = _SEED
) -> dict[tuple[str, str], Norm]:
    """Return the Frobenius norm of each block on and above the diagonal (Hutchinson 1990).

    For z of independent signs, E norm(H_ij z)^2 = norm(H_ij)_F^2. The block below the diagonal has
    the same norm and another probe: the mean of both squares is the sample.
    """
    stream = torch.Generator().manual_seed(seed)
    squares: dict[tuple[str, str], list[float]] = {}
    for _ in range(probes):
        signs = torch.randint(0, 2, (products.size,), generator=stream).to(products.dtype) * 2 - 1
        vectors = torch.stack([group.put(group.take(signs), products.size) for group in groups])
        found = products(vectors)
        square = {
            (row.name, col.name): float(row.take(column).double().square().sum())
            for column, col in zip(found, groups, strict=True)
            for row in groups
        }
        for row, col in pairs(groups):
            both = square[row.name, col.name] + square[col.name, row.name]
            squares.setdefault((row.name, col.name), []).append(both / 2)
    return {block: norm_of(np.array(samples)) for block, samples in squares.items()}


def norm_of(squares: Array) -> Norm:
    """Return the norm whose square is the mean of ``squares`` [n], n >= 2.

    Student's interval of the mean, on the logarithm of the norm. Where one direction rules a
    block the squares are like chi-square of one degree, and the interval covers 92, 93, 94 % with
    16, 32, 64 probes; otherwise nearer to 95 %.
    """
    mean, n = float(squares.mean()), len(squares)
    if mean == 0:
        return Norm(0.0, 0.0, 0.0, 0.0)
    value = math.sqrt(mean)
    relative = float(squares.std(ddof=1)) / math.sqrt(n) / mean / 2
    factor = math.exp(float(stats.t.ppf(0.975, n - 1)) * relative)
    return Norm(value, value * relative, value / factor, value * factor)


def spectral_norms(
    products: HessianProducts | _Count, blocks: Sequence[Pair], steps: int, seed: int = _SEED
) -> dict[tuple[str, str], SpectralNorm]:
    """Return the spectral norm of each block, by `lanczos` on it if it is symmetric.

    A block A off the diagonal has that of the symmetric [[0, A], [A^T, 0]].
    """
    stream = torch.Generator().manual_seed(seed + 1)
    runs = []
    for pair in blocks:
        size = sum(group.size for group in _members(pair))
        start = torch.randn(size, generator=stream, dtype=torch.float64)
        runs.append(lanczos(size, steps, start.to(products.device, products.dtype)))

    def apply(vectors: dict[int, Tensor]) -> dict[int, Tensor]:
        asked, whose = [], []
        for number, vector in vectors.items():
            members = _members(blocks[number])
            parts = torch.split(vector, [group.size for group in members])
            for group, part in zip(members, parts, strict=True):
                asked.append(group.put(part, products.size))
                whose.append(number)
        found: dict[int, list[Tensor]] = {}
        for number, product in zip(whose, products(torch.stack(asked)), strict=True):
            found.setdefault(number, []).append(product)
        # The product with the part of the second member lands in the first, and the reverse.
        return {
            number: torch.cat(
                [
                    group.take(product)
                    for group, product in zip(
                        _members(blocks[number]), reversed(parts), strict=True
                    )
                ]
            )
            for number, parts in found.items()
        }

    norms = run_together(runs, apply)
    return {(row.name, col.name): norm for (row, col), norm in zip(blocks, norms, strict=True)}


def _members(pair: Pair) -> list[Group]:
    return [pair[0]] if pair[0] is pair[1] else list(pair)


def _cost(pair: Pair) -> int:
    return len(_members(pair))


def _most(pair: Pair, steps: int) -> int:
    return min(steps, sum(group.size for group in _members(pair)))


def _rows(
    groups: Sequence[Group],
    norms: dict[tuple[str, str], Norm],
    spectra: dict[tuple[str, str], SpectralNorm],
) -> Iterator[dict[str, Any]]:
    unknown = SpectralNorm(math.nan, math.nan)
    for pair in pairs(groups):
        block = (pair[0].name, pair[1].name)
        norm, spectrum = norms[block], spectra.get(block, unknown)
        yield names(pair) | {
            "mean_abs": math.nan,
            "frobenius": norm.value,
            "frobenius_stderr": norm.stderr,
            "frobenius_low": norm.low,
            "frobenius_high": norm.high,
            "spectral": spectrum.estimate,
            "spectral_high": spectrum.high,
        }
