"""Batches of many shapes: what shares one, and that nothing is lost on the way there and back.

The shared evaluation against an SVD in float64.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizers.math.polar import MUON_COEFFICIENTS, newton_schulz
from optimizers.math.stacks import (
    pack,
    polar_stacks,
    product_dtype,
    share,
    share_transfer,
    transfer_stacks,
    unpack,
    with_norm,
)
from optimizers.reference import transfer

CPU, META = torch.device("cpu"), torch.device("meta")
_SHAPE = st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20))


@settings(max_examples=100, deadline=None)
@given(st.lists(_SHAPE, min_size=1, max_size=8), st.sampled_from([0, 50, 500, 10**6]))
def test_every_matrix_comes_back_as_it_was(
    shapes: list[tuple[int, int, int]], padding: int
) -> None:
    stacks = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    buckets = share(shapes, [CPU] * len(shapes), padding)
    returned = {}
    for bucket in buckets:
        packed = pack(stacks, bucket, 3.0, torch.float64)
        assert [len(batch) for batch in packed] == [
            sum(shapes[i][0] for i in batch.stacks) for batch in bucket.batches
        ]
        for index, matrices in unpack(packed, bucket, stacks):
            assert index not in returned
            returned[index] = matrices
    assert sorted(returned) == list(range(len(shapes)))
    for index, matrices in returned.items():
        torch.testing.assert_close(matrices, with_norm(stacks[index], 3.0))


@settings(max_examples=100, deadline=None)
@given(st.lists(_SHAPE, min_size=1, max_size=8), st.sampled_from([1, 50, 500]))
def test_padding_stays_within_its_limit(shapes: list[tuple[int, int, int]], padding: int) -> None:
    for bucket in share(shapes, [CPU] * len(shapes), padding):
        own = max(min(shapes[i][1:]) for i in bucket.stacks)
        side = -(-own // 8) * 8
        assert bucket.side == side
        taller, longer = 0, 0
        for batch in bucket.batches:
            for i in batch.stacks:
                count, short, long = shapes[i][0], min(shapes[i][1:]), max(shapes[i][1:])
                if -(-short // 8) * 8 < side:  # alignment alone is not counted
                    taller += count * ((side - short) * long + 4 * (side**2 - short**2))
                longer += count * side * (batch.length - long)
        assert taller <= padding
        assert longer <= padding


def test_without_padding_only_equal_sides_share() -> None:
    buckets = share([(2, 8, 30), (1, 30, 8), (3, 8, 8), (2, 5, 17)], [CPU] * 4)
    assert [(bucket.side, bucket.stacks) for bucket in buckets] == [(5, (3,)), (8, (0, 1, 2))]
    assert [batch.length for batch in buckets[1].batches] == [30, 8]


def test_devices_do_not_share() -> None:
    buckets = share([(1, 4, 4), (1, 4, 4)], [CPU, META], 10**6)
    assert [bucket.stacks for bucket in buckets] == [(0,), (1,)]


def test_a_gpu_pads_by_itself() -> None:
    shapes = [(1, 64, 27), (4, 64, 576), (3, 512, 4608)]
    buckets = share(shapes, [torch.device("cuda")] * 3)
    assert [(bucket.side, bucket.stacks) for bucket in buckets] == [(64, (1, 0)), (512, (2,))]
    assert [batch.length for batch in buckets[0].batches] == [576]


def test_half_precision_takes_the_smallest_and_the_largest_matrix() -> None:
    sizes = [1e-17, 1e15, 0.0, 1e-30]  # the last one's squares are nothing in float32
    given_ = [torch.full((1, 2, 3), size) for size in sizes]
    (bucket,) = share([(1, 2, 3)] * 4, [CPU] * 4)
    (packed,) = pack(given_, bucket, 1.0, torch.float16)
    norms = torch.linalg.matrix_norm(packed.float())
    assert norms.tolist() == pytest.approx([1.0, 1.0, 0.0, 0.0], rel=1e-3)


def test_what_is_not_finite_shows() -> None:
    matrices = torch.ones(3, 2, 3)
    matrices[0, 0, 0], matrices[1, 1, 1] = torch.nan, torch.inf
    finite = with_norm(matrices, 1.0).isfinite().all(dim=(1, 2))
    assert finite.tolist() == [False, False, True]


def test_with_norm() -> None:
    matrices = torch.stack([torch.full((2, 3), 7.0), torch.zeros(2, 3)])
    assert torch.linalg.matrix_norm(with_norm(matrices, 5.0)).tolist() == pytest.approx([5.0, 0.0])


def test_product_dtype_is_at_least_float32_on_a_cpu() -> None:
    assert product_dtype(torch.zeros(1, dtype=torch.bfloat16)) is torch.float32
    assert product_dtype(torch.zeros(1, dtype=torch.float64)) is torch.float64


# Two short sides, each with tall, wide and square stacks, and more than one alpha.
SHAPES = [(2, 8, 30), (1, 30, 8), (3, 8, 8), (2, 5, 17), (1, 1, 6)]
ALPHAS = [2.0, 3.0, 2.0, 2.5, 2.0]


def stacks(seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in SHAPES]


def worst_error(found: list[Tensor], damping: float, normalize: str) -> float:
    """Largest error of a singular direction, relative to the largest value in its matrix."""
    worst = 0.0
    for matrices, alpha, stack in zip(found, ALPHAS, stacks(), strict=True):
        exact = torch.stack([transfer(matrix, alpha, damping, normalize) for matrix in stack])
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
    stack = stacks()
    stack[0][0] = 0
    shared = share_transfer(SHAPES, ALPHAS, 0.1, 0.01, [CPU] * len(SHAPES))
    found = transfer_stacks(stack, shared, "schatten8", torch.float32)
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
    monkeypatch.setattr("optimizers.math.stacks._SMALL", 10)
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
