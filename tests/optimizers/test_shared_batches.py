"""Batches of many shapes: what shares one, and that nothing is lost on the way there and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizers.shared_batches import pack, product_dtype, share, unpack, with_norm

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
