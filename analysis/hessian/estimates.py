"""Norms of the blocks of a Hessian too large to form, from its products with vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from analysis.hessian.groups import Group
from analysis.hessian.lanczos import SpectralNorm, lanczos, run_together
from analysis.hessian.norms import Pair, names, pairs, table
from analysis.hessian.products import HessianProducts

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
    """Return one row a block, the columns of `analysis.hessian.norms.exact_norms`.

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
    """Products that tell how many of them there were."""

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
