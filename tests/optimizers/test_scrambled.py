"""The scrambled polar factors of many matrices equal those by an exact SVD of each."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from optimizers.reference import scrambled
from optimizers.scrambled import SPECTRA, scramble

SHAPES = [(6, 9), (9, 6), (6, 40), (6, 6), (1, 5), (5, 1), (1, 1), (3, 200), (64, 72), (300, 64)]


def samples(dtype: torch.dtype) -> list[Tensor]:
    """Random ones, falling spectra, of low rank, of extreme size, and zero."""
    stream = torch.Generator().manual_seed(0)
    made = [torch.randn(s, generator=stream, dtype=torch.float64) for s in SHAPES]
    decay = torch.logspace(0, -3, 64, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(64, 64, generator=stream, dtype=torch.float64)).Q
    other = torch.linalg.qr(torch.randn(72, 64, generator=stream, dtype=torch.float64)).Q
    made.append(basis @ torch.diag(decay) @ other.mT)
    made += [a[:, :2] @ torch.ones(2, 9).double().tril() for a in made[:2]]
    made += [1e-30 * made[0], 1e20 * made[1], torch.zeros(6, 9), torch.zeros(9, 1)]
    return [m.to(dtype) for m in made]


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_the_svd_with_other_singular_values(dtype: torch.dtype, spectrum: str) -> None:
    matrices = samples(dtype)
    seeds = list(range(len(matrices)))
    found = scramble(matrices, seeds, spectrum)
    for matrix, seed, step in zip(matrices, seeds, found, strict=True):
        assert step.dtype == torch.promote_types(dtype, torch.float32)
        stream, eps = torch.Generator().manual_seed(seed), torch.finfo(step.dtype).eps
        expected = scrambled(matrix, spectrum, stream, eps)
        error = (step.double() - expected).norm() / expected.norm().clamp(min=1e-300)
        assert error < (1e-9 if dtype == torch.float64 else 1e-6), (tuple(matrix.shape), seed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_is_what_it_is_among_others(dtype: torch.dtype) -> None:
    matrices = samples(dtype)
    seeds = list(range(len(matrices)))
    together = scramble(matrices, seeds, "uniform")
    alone = [scramble([m], [s], "uniform")[0] for m, s in zip(matrices, seeds, strict=True)]
    torch.testing.assert_close(together, alone)
    assert scramble([], [], "uniform") == []


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_is_not_finite_shows_and_spoils_no_other(
    dtype: torch.dtype, wrong: float, spectrum: str
) -> None:
    matrices = samples(dtype)[:4]
    expected = scramble(matrices, [0, 1, 2, 3], spectrum)
    matrices[2][1, 1] = wrong
    found = scramble(matrices, [0, 1, 2, 3], spectrum)
    assert found[2].isnan().all()
    del found[2], expected[2]
    torch.testing.assert_close(found, expected)


def test_matrices_of_one_short_side_share_an_eigendecomposition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, exact = [], torch.linalg.eigh

    def counted(stack: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(tuple(stack.shape))
        values, vectors = exact(stack)
        return values, vectors

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    scramble([torch.randn(s) for s in [(4, 9), (4, 4), (7, 4), (3, 5)]], [0] * 4, "uniform")
    assert seen == [(3, 4, 4), (1, 3, 3)]
