"""The shared evaluation against an SVD in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from optimizers.shared_gram import make_buckets, transfer_stacks, with_norm

CPU = torch.device("cpu")
# Two short sides, each with tall, wide and square stacks, and more than one alpha.
SHAPES = [(2, 8, 30), (1, 30, 8), (3, 8, 8), (2, 5, 17), (1, 1, 6)]
ALPHAS = [2.0, 3.0, 2.0, 2.5, 2.0]


def stacks(seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in SHAPES]


def reference(matrices: Tensor, alpha: float, damping: float, normalize: str) -> Tensor:
    left, sigma, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    power = 8 if normalize == "schatten8" else 2
    sigma = sigma / sigma.pow(power).sum(-1, keepdim=True).pow(1 / power)
    return left @ ((sigma / (sigma**alpha + damping)).unsqueeze(-1) * right)


def worst_error(found: list[Tensor], damping: float, normalize: str) -> float:
    """Largest error of a singular direction, relative to the largest value in its matrix."""
    worst = 0.0
    for matrices, alpha, given in zip(found, ALPHAS, stacks(), strict=True):
        exact = reference(given, alpha, damping, normalize)
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
    buckets = make_buckets(SHAPES, ALPHAS, damping, tolerance, [CPU] * len(SHAPES))
    assert [bucket.stacks for bucket in buckets] == [(0, 1, 2), (3,), (4,)]
    found = transfer_stacks(stacks(), buckets, normalize, torch.float32)
    assert [matrix.shape for matrix in found] == [torch.Size(shape) for shape in SHAPES]
    # The tolerance is relative to the largest T on [0, 1]; a matrix need not reach that sigma.
    assert worst_error(found, damping, normalize) < 2.5 * tolerance


def test_the_size_of_the_input_does_not_matter() -> None:
    buckets = make_buckets(SHAPES, ALPHAS, 0.1, 0.01, [CPU] * len(SHAPES))
    plain = transfer_stacks(stacks(), buckets, "schatten8", torch.float32)
    for scale in (1e-12, 1e12):
        scaled = transfer_stacks(stacks(scale=scale), buckets, "schatten8", torch.float32)
        for a, b in zip(plain, scaled, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_zero_matrices_stay_zero_and_spoil_no_neighbour() -> None:
    given = stacks()
    given[0][0] = 0
    buckets = make_buckets(SHAPES, ALPHAS, 0.1, 0.01, [CPU] * len(SHAPES))
    found = transfer_stacks(given, buckets, "schatten8", torch.float32)
    assert torch.equal(found[0][0], torch.zeros(8, 30))
    kept = transfer_stacks(stacks(), buckets, "schatten8", torch.float32)
    torch.testing.assert_close(found[0][1], kept[0][1])
    torch.testing.assert_close(found[2], kept[2])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 0.02), (torch.bfloat16, 0.08)])
def test_half_precision_stays_near(dtype: torch.dtype, bound: float) -> None:
    buckets = make_buckets(SHAPES, ALPHAS, 0.1, 0.01, [CPU] * len(SHAPES))
    found = transfer_stacks(stacks(), buckets, "schatten8", dtype)
    assert all(matrix.dtype is torch.float32 for matrix in found)
    assert worst_error(found, 0.1, "schatten8") < bound


def test_an_unreachable_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match="no polynomial"):
        make_buckets([(1, 4, 4)], [0.5], 1e-4, 1e-3, [CPU])


def test_with_norm() -> None:
    matrices = torch.stack([torch.full((2, 3), 7.0), torch.zeros(2, 3)])
    scaled = with_norm(matrices, 5.0)
    assert torch.linalg.matrix_norm(scaled).tolist() == pytest.approx([5.0, 0.0])
