"""The shared evaluation against an SVD in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from optimizers.polar import MUON_COEFFICIENTS, newton_schulz
from optimizers.reference import transfer
from optimizers.shared_batches import share
from optimizers.shared_gram import polar_stacks, share_transfer, transfer_stacks

CPU = torch.device("cpu")
# Two short sides, each with tall, wide and square stacks, and more than one alpha.
SHAPES = [(2, 8, 30), (1, 30, 8), (3, 8, 8), (2, 5, 17), (1, 1, 6)]
ALPHAS = [2.0, 3.0, 2.0, 2.5, 2.0]


def stacks(seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in SHAPES]


def worst_error(found: list[Tensor], damping: float, normalize: str) -> float:
    """Largest error of a singular direction, relative to the largest value in its matrix."""
    worst = 0.0
    for matrices, alpha, given in zip(found, ALPHAS, stacks(), strict=True):
        exact = torch.stack([transfer(matrix, alpha, damping, normalize) for matrix in given])
        size = torch.linalg.matrix_norm(exact, ord=2)
        error = torch.linalg.matrix_norm(matrices.double() - exact, ord=2) / size
        worst = max(worst, float(error.max()))
    return worst


@pytest.mark.parametrize("normalize", ["schatten8", "frobenius"])
@pytest.mark.parametrize("damping", [0.1, 0.03])
@pytest.mark.parametrize("tolerance", [0.01, 0.001])
def test_matches_an_svd_within_the_tolerance(
    normalize: str, damping: float, tolerance: float
) -> None:
    shared = share_transfer(SHAPES, ALPHAS, damping, tolerance, [CPU] * len(SHAPES))
    assert sorted(i for one in shared for i in one.bucket.stacks) == list(range(len(SHAPES)))
    found = transfer_stacks(stacks(), shared, normalize, torch.float32)
    assert [matrix.shape for matrix in found] == [torch.Size(shape) for shape in SHAPES]
    # The tolerance is relative to the largest T on [0, 1]; a matrix need not reach that sigma.
    assert worst_error(found, damping, normalize) < 2.5 * tolerance


def test_the_size_of_the_input_does_not_matter() -> None:
    shared = share_transfer(SHAPES, ALPHAS, 0.1, 0.01, [CPU] * len(SHAPES))
    plain = transfer_stacks(stacks(), shared, "schatten8", torch.float32)
    for scale in (1e-12, 1e12):
        scaled = transfer_stacks(stacks(scale=scale), shared, "schatten8", torch.float32)
        for a, b in zip(plain, scaled, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_zero_matrices_stay_zero_and_spoil_no_neighbour() -> None:
    given = stacks()
    given[0][0] = 0
    shared = share_transfer(SHAPES, ALPHAS, 0.1, 0.01, [CPU] * len(SHAPES))
    found = transfer_stacks(given, shared, "schatten8", torch.float32)
    assert torch.equal(found[0][0], torch.zeros(8, 30))
    kept = transfer_stacks(stacks(), shared, "schatten8", torch.float32)
    torch.testing.assert_close(found[0][1], kept[0][1])
    torch.testing.assert_close(found[2], kept[2])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 0.02), (torch.bfloat16, 0.08)])
def test_half_precision_stays_near(dtype: torch.dtype, bound: float) -> None:
    shared = share_transfer(SHAPES, ALPHAS, 0.1, 0.01, [CPU] * len(SHAPES))
    found = transfer_stacks(stacks(), shared, "schatten8", dtype)
    assert all(matrix.dtype is torch.float32 for matrix in found)
    assert worst_error(found, 0.1, "schatten8") < bound


def test_an_unreachable_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match="no polynomial"):
        share_transfer([(1, 4, 4)], [0.5], 1e-4, 1e-3, [CPU])


@pytest.mark.parametrize("normalize", ["schatten8", "frobenius"])
def test_padding_changes_nothing_but_rounding(normalize: str) -> None:
    devices = [CPU] * len(SHAPES)
    plain = share_transfer(SHAPES, ALPHAS, 0.1, 1e-3, devices)
    padded = share_transfer(SHAPES, ALPHAS, 0.1, 1e-3, devices, padding=10**6)
    assert len(plain) == 3
    assert len(padded) == 1
    assert padded[0].bucket.side == 8
    given = [matrices.double() for matrices in stacks()]
    expected = transfer_stacks(given, plain, normalize, torch.float64)
    found = transfer_stacks(given, padded, normalize, torch.float64)
    for a, b, alpha in zip(found, expected, ALPHAS, strict=True):
        # Where alphas differ, all take the degree that the worst needs.
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6 if alpha == 3.0 else 1e-2)


@pytest.mark.parametrize("padding", [0, 10**6])
@pytest.mark.parametrize("steps", [1, 4, 5])
def test_the_shared_polar_factor_is_newton_schulz(padding: int, steps: int) -> None:
    given = [matrices.double() for matrices in stacks()]
    given[0][1] = 0
    buckets = share(SHAPES, [CPU] * len(SHAPES), padding)
    found = polar_stacks(given, buckets, [MUON_COEFFICIENTS] * steps, torch.float64)
    for matrices, orthogonal in zip(given, found, strict=True):
        expected = newton_schulz(matrices, steps, form="direct")
        torch.testing.assert_close(orthogonal, expected, rtol=1e-9, atol=1e-9)


def test_large_squarish_batches_are_multiplied_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    # As large as that takes the sizes of real networks: here the limit comes down instead.
    monkeypatch.setattr("optimizers.shared_gram._SMALL", 10)
    calls = []
    real = torch.baddbmm
    monkeypatch.setattr(
        torch, "baddbmm", lambda *args, **kw: calls.append(args[0].shape) or real(*args, **kw)
    )
    given = [torch.randn(2, 8, 30), torch.randn(3, 8, 8)]
    buckets = share([(2, 8, 30), (3, 8, 8)], [CPU, CPU], 0)
    found = polar_stacks(given, buckets, [MUON_COEFFICIENTS] * 5, torch.float32)
    assert calls.count(torch.Size([3, 8, 8])) == 10  # two products of each of five steps
    for matrices, orthogonal in zip(given, found, strict=True):
        expected = newton_schulz(matrices, 5, form="direct")
        torch.testing.assert_close(orthogonal, expected, rtol=1e-3, atol=1e-3)


def test_half_precision_keeps_the_polar_factor_bounded() -> None:
    buckets = share(SHAPES, [CPU] * len(SHAPES), 10**6)
    found = polar_stacks(stacks(), buckets, [MUON_COEFFICIENTS] * 5, torch.float16)
    for matrices in found:
        sigma = torch.linalg.svdvals(matrices.float())
        assert float(sigma.min()) > 0.6
        assert float(sigma.max()) < 1.3
