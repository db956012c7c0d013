"""Stratified splits and channel statistics against independent computations."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.images import Split
from bench.data.splits import (
    channel_statistics,
    held_out_count,
    split_stratified,
    split_validation,
)
from bench.seeding import generator


def make(labels: list[int]) -> Split:
    """Images that spell out their own index in two pixels, so that each can be recognised."""
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    index = torch.arange(len(labels))
    images[:, 0, 0, 0], images[:, 0, 0, 1] = (index // 256).byte(), (index % 256).byte()
    return Split(images, torch.tensor(labels))


def indices(split: Split) -> list[int]:
    pixels = split.images[:, 0, 0].long()
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


@given(
    labels=st.lists(st.integers(0, 5), min_size=2, max_size=80),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_split_is_disjoint_complete_exact_ordered_and_stratified(
    labels: list[int], seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(labels) - 1))
    source = make(labels)
    rest, held = split_stratified(source, count, generator(seed, "test"))
    ours, theirs = indices(rest), indices(held)
    assert len(theirs) == count
    assert sorted(ours + theirs) == list(range(len(labels)))
    assert ours == sorted(ours) and theirs == sorted(theirs)
    for part, index in ((rest, ours), (held, theirs)):
        assert part.labels.tolist() == [labels[i] for i in index]
    taken = Counter(held.labels.tolist())
    for label, size in Counter(labels).items():
        share = Fraction(size * count, len(labels))
        assert abs(taken[label] - share) < 1


def test_largest_remainders_get_what_rounding_down_left() -> None:
    labels = [0] * 5 + [1] * 3 + [2] * 2  # of 4: shares 2.0, 1.2, 0.8
    _, held = split_stratified(make(labels), 4, generator(0, "test"))
    assert Counter(held.labels.tolist()) == {0: 2, 1: 1, 2: 1}


def test_validation_depends_on_the_seed_and_nothing_else() -> None:
    source = make([i % 10 for i in range(300)])

    def held(seed: int) -> list[int]:
        return indices(split_validation(source.images, source.labels, 0.1, seed)[1])

    torch.manual_seed(5)
    first = held(0)
    torch.manual_seed(6)
    assert first == held(0)
    assert first != held(1)
    assert len(first) == len(held(1)) == 30


def test_every_sample_can_be_chosen() -> None:
    source = make([0] * 6 + [1] * 6)
    seen: set[int] = set()
    for seed in range(60):
        seen |= set(indices(split_validation(source.images, source.labels, 4, seed)[1]))
    assert seen == set(range(12))


@pytest.mark.parametrize(
    ("size", "total", "expected"),
    [(0.1, 1438, 144), (0.2, 1797, 359), (144, 1438, 144), (1, 2, 1), (0.1, 50_000, 5_000)],
)
def test_a_size_is_a_fraction_or_a_count(size: float, total: int, expected: int) -> None:
    assert held_out_count(size, total) == expected


@pytest.mark.parametrize(
    "size", [0, 0.0, 1.0, 1.5, -0.1, -3, 100, 101, 0.001, 0.999, float("nan"), True, "0.1", None]
)
def test_impossible_sizes_are_refused_in_one_line(size: object) -> None:
    with pytest.raises(ValueError, match=r"validation=.* out of 100 images.*count from 1 to 99"):
        held_out_count(size, 100)  # type: ignore[arg-type]


def test_split_validation_refuses_an_impossible_size() -> None:
    source = make([0, 1, 0, 1])
    with pytest.raises(ValueError, match="out of 4 images"):
        split_validation(source.images, source.labels, 4, 0)


@pytest.mark.parametrize("count", [1, 1024, 1500])
def test_channel_statistics_against_numpy_in_float64(count: int) -> None:
    stream = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, 5, 5), generator=stream).to(torch.uint8)
    images[:, 1] //= 4
    pixels = images.numpy().astype(np.float64) / 255
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_has_unit_std() -> None:
    images = torch.full((4, 1, 3, 3), 51, dtype=torch.uint8)
    assert channel_statistics(images) == ((51 / 255,), (1.0,))
