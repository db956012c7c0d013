"""Counter-based random words against the published 32-bit hash, and as random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.base import below, random_words, uniform
from bench.seeding import derive


def lowbias32(x: np.ndarray) -> np.ndarray:
    """Wellons' finaliser in wrapping uint32."""
    x = x.astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    return x ^ x >> np.uint32(16)


def reference(index: np.ndarray, lanes: int, key: int) -> np.ndarray:
    words = lowbias32(index.astype(np.uint64) ^ np.uint64(key & 0xFFFFFFFF))
    words = lowbias32(words ^ np.uint32(key >> 32))
    lane = (np.arange(lanes, dtype=np.uint64) * 0x9E3779B9).astype(np.uint32)
    return lowbias32(words[:, None] ^ lane)


@given(
    index=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=8),
    lanes=st.integers(1, 5),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_the_words_are_those_of_the_hash_in_wrapping_arithmetic(
    index: list[int], lanes: int, seed: int, epoch: int
) -> None:
    words = random_words(torch.tensor(index), lanes, seed, "test", epoch)
    assert words.dtype == torch.int64 and words.shape == (len(index), lanes)
    expected = reference(np.array(index, dtype=np.uint64), lanes, derive(seed, "test", epoch))
    assert np.array_equal(words.numpy(), expected.astype(np.int64))


def test_known_values_stay() -> None:
    """Batches of existing runs depend on these."""
    words = random_words(torch.tensor([0, 1, 4_000_000_000]), 2, 0, "augment", 3)
    assert words.tolist() == [
        [788461527, 2994396243],
        [501277383, 427200795],
        [2535876507, 366767041],
    ]


def test_seed_purpose_and_lane_give_other_numbers() -> None:
    index = torch.arange(1000)
    columns = [
        random_words(index, 2, 0, "a", 0)[:, 0],
        random_words(index, 2, 0, "a", 0)[:, 1],
        random_words(index, 1, 1, "a", 0)[:, 0],
        random_words(index, 1, 0, "b", 0)[:, 0],
        random_words(index, 1, 0, "a", 1)[:, 0],
    ]
    together = torch.corrcoef(uniform(torch.stack(columns)))
    off = together[~torch.eye(5, dtype=torch.bool)]
    assert off.abs().max() < 5 / 1000**0.5


@pytest.mark.parametrize("lane", [0, 1, 2])
def test_the_numbers_are_uniform_and_uncorrelated_in_a_row(lane: int) -> None:
    count = 100_000
    numbers = uniform(random_words(torch.arange(count), 3, 7, "augment", 0)[:, lane])
    assert numbers.min() >= 0 and numbers.max() < 1
    bins = (numbers * 100).long().bincount(minlength=100).double()
    chi2 = float(((bins - count / 100) ** 2).sum() / (count / 100))
    assert abs(chi2 - 99) < 5 * (2 * 99) ** 0.5
    neighbours = torch.corrcoef(torch.stack([numbers[1:], numbers[:-1]]))[0, 1]
    assert abs(neighbours) < 5 / count**0.5


def test_each_bit_of_the_index_changes_half_of_the_word() -> None:
    index = torch.arange(500)
    words = random_words(index, 1, 3, "x")[:, 0]
    for bit in range(20):
        changed = words ^ random_words(index ^ 1 << bit, 1, 3, "x")[:, 0]
        share = sum((changed >> place & 1).double().mean() for place in range(32)) / 32
        assert abs(share - 0.5) < 0.02


@given(bound=st.integers(1, 2**31))
@settings(max_examples=30, deadline=None)
def test_bounded_integers_reach_both_ends_and_no_further(bound: int) -> None:
    ends = below(torch.tensor([0, 2**32 - 1]), bound)
    assert ends.tolist() == [0, bound - 1]


def test_bounded_integers_are_uniform() -> None:
    counts = below(random_words(torch.arange(50_000), 1, 0, "x"), 7).flatten().bincount()
    assert len(counts) == 7
    assert (counts / 50_000 - 1 / 7).abs().max() < 5 * (6 / 49 / 50_000) ** 0.5
