"""Batches: order, augmentation, normalisation and resuming in the middle of an epoch.

Stratified splits and channel statistics against independent computations.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from bench.build import ImageShape
from bench.data.base import SPLITS, Data, below
from bench.data.images import (
    Augment,
    ImageData,
    Split,
    channel_statistics,
    held_out_count,
    split_stratified,
    split_validation,
)
from bench.seeding import generator


def make_split(count: int, channels: int = 3, size: int = 6, first: int = 0) -> Split:
    """Random images whose label is also written into the first pixel's value, mod 251."""
    stream = torch.Generator().manual_seed(count + channels + first)
    shape = (count, channels, size, size)
    images = torch.randint(0, 256, shape, generator=stream).to(torch.uint8)
    labels = torch.arange(first, first + count)
    images[:, :, 0, 0] = (labels % 251).to(torch.uint8)[:, None]
    return Split(images, labels)


def make_data(augment: Augment | None = None, count: int = 37, channels: int = 3) -> ImageData:
    return ImageData(
        name="toy",
        num_classes=1000,
        train=make_split(count, channels),
        val=make_split(11, channels, first=500),
        test=make_split(7, channels, first=600),
        mean=(0.25, 0.5, 0.125)[:channels],
        std=(0.5, 0.25, 2.0)[:channels],
        augment=augment or Augment(),
    )


def epoch(data: ImageData, seed: int, number: int, batch: int = 5, start: int = 0) -> list:
    return list(data.train_batches(seed, number, batch, start))


def same(first: list, second: list) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d)
        for (a, b), (c, d) in zip(first, second, strict=True)
    )


def raw(data: ImageData, inputs: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation, back to uint8."""
    mean = torch.tensor(data.mean).reshape(1, -1, 1, 1)
    std = torch.tensor(data.std).reshape(1, -1, 1, 1)
    return ((inputs * std + mean) * 255).round().to(torch.uint8)


FULL = Augment(pad=2, flip=True)


def test_shapes_and_sizes() -> None:
    data = make_data()
    assert data.shape == ImageShape(in_channels=3, num_classes=1000, image_size=6)
    assert make_data(channels=1).shape.in_channels == 1
    assert [data.size(name) for name in SPLITS] == [37, 11, 7]
    assert isinstance(data, Data)
    assert data.steps_per_epoch(5) == 7  # 37 images: two are dropped
    assert data.steps_per_epoch(37) == 1
    inputs, labels = next(data.train_batches(0, 0, 5))
    assert inputs.shape == (5, 3, 6, 6) and inputs.dtype == torch.float32
    assert labels.shape == (5,) and labels.dtype == torch.int64


@pytest.mark.parametrize("batch_size", [0, -1, 38])
def test_impossible_batch_size_names_dataset_size_and_remedy(batch_size: int) -> None:
    data = make_data()
    with pytest.raises(ValueError, match=r"toy.*37 images.*from 1 to 37") as caught:
        data.check_batch_size(batch_size)
    assert str(batch_size) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="from 1 to 37"):
        data.steps_per_epoch(batch_size)
    with pytest.raises(ValueError, match="from 1 to 37"):
        data.train_batches(0, 0, batch_size)  # at once, not at the first batch


def test_an_epoch_sees_each_sample_at_most_once_with_its_label() -> None:
    data = make_data()
    batches = epoch(data, 0, 0)
    labels = torch.cat([label for _, label in batches])
    assert len(labels) == 35 and len(labels.unique()) == 35
    for inputs, label in batches:
        assert torch.equal(raw(data, inputs), data.train.images[label])


def test_order_is_that_of_the_seeded_permutation() -> None:
    expected = torch.randperm(37, generator=generator(3, "order", 2))[:35]
    labels = torch.cat([label for _, label in epoch(make_data(), 3, 2)])
    assert torch.equal(labels, expected)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def labels(data: ImageData, seed: int, number: int) -> list[int]:
        return torch.cat([y for _, y in epoch(data, seed, number)]).tolist()

    data = make_data()
    assert labels(data, 0, 0) == labels(make_data(), 0, 0)
    assert labels(data, 0, 0) == labels(make_data(FULL), 0, 0)
    assert labels(data, 0, 0) != labels(data, 1, 0)
    assert labels(data, 0, 0) != labels(data, 0, 1)


def test_batches_ignore_and_leave_the_global_random_state() -> None:
    data = make_data(FULL)
    torch.manual_seed(0)
    first, left = epoch(data, 0, 0), torch.random.get_rng_state()
    torch.manual_seed(1)
    second = epoch(data, 0, 0)
    assert same(first, second)
    torch.manual_seed(0)
    assert torch.equal(left, torch.random.get_rng_state())


@given(
    seed=st.integers(0, 2**31),
    number=st.integers(0, 300),
    batch=st.integers(1, 37),
    pad=st.integers(0, 3),
    flip=st.booleans(),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_an_epoch_entered_in_the_middle_continues_bit_for_bit(
    seed: int, number: int, batch: int, pad: int, flip: bool, data: st.DataObject
) -> None:
    images = make_data(Augment(pad, flip))
    start = data.draw(st.integers(0, images.steps_per_epoch(batch)))
    whole = epoch(images, seed, number, batch)
    assert same(whole[start:], epoch(images, seed, number, batch, start))


@pytest.mark.parametrize("start", [-1, 8])
def test_start_beyond_the_epoch_is_refused(start: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 7"):
        make_data().train_batches(0, 0, 5, start)


def test_augmentation_of_a_sample_does_not_depend_on_its_batch() -> None:
    data = make_data(FULL)

    def by_label(batch: int) -> dict[int, torch.Tensor]:
        pairs = epoch(data, 4, 1, batch)
        return {int(k): x for xs, ys in pairs for x, k in zip(xs, ys, strict=True)}

    small, large = by_label(1), by_label(18)
    assert len(large) == 36
    assert all(torch.equal(small[key], large[key]) for key in large)


def test_augmentation_changes_with_seed_and_epoch_and_leaves_the_images_alone() -> None:
    before = make_data().train.images.clone()
    index = torch.arange(37)
    draws = [FULL.draw(index, *where) for where in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert torch.equal(draws[0], draws[3])
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    data = make_data(FULL)
    assert not same(epoch(data, 0, 0), epoch(make_data(), 0, 0))
    assert torch.equal(data.train.images, before)


def reference_augment(image: np.ndarray, numbers: np.ndarray, augment: Augment) -> np.ndarray:
    """Pad, cut out and mirror one image [C, H, W], in numpy."""
    pad, size = augment.pad, image.shape[-1]
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    top, left = (int(np.floor(number / 2**32 * (2 * pad + 1))) for number in numbers[:2])
    crop = padded[:, top : top + size, left : left + size]
    return crop[:, :, ::-1] if augment.flip and numbers[2] < 2**31 else crop


@given(pad=st.integers(0, 4), flip=st.booleans(), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_augmentation_agrees_with_a_loop_in_numpy(pad: int, flip: bool, seed: int) -> None:
    augment, images = Augment(pad, flip), make_split(9).images
    numbers = torch.randint(0, 2**32, (9, 3), generator=generator(seed, "test"))
    result = augment.apply(images, numbers)
    assert result.dtype == torch.uint8
    for image, number, found in zip(images, numbers, result, strict=True):
        expected = reference_augment(image.numpy(), number.numpy(), augment)
        assert np.array_equal(expected, found.numpy())


def test_extreme_shifts_are_reached_and_the_border_is_black() -> None:
    images = torch.full((2, 1, 4, 4), 200, dtype=torch.uint8)
    numbers = torch.tensor([[0, 0, 2**31], [2**32 - 1, 2**32 - 1, 2**31]])
    first, last = Augment(pad=1).apply(images, numbers)
    assert first[0, 0].eq(0).all() and first[0, :, 0].eq(0).all() and first[0, 1:, 1:].eq(200).all()
    assert last[0, 3].eq(0).all() and last[0, :, 3].eq(0).all() and last[0, :3, :3].eq(200).all()


def test_shifts_and_flips_are_uniform() -> None:
    numbers = FULL.draw(torch.arange(20_000), 0, 0)
    assert numbers is not None and numbers.shape == (20_000, 3)
    counts = below(numbers[:, :2], 5).flatten().bincount(minlength=5) / 40_000
    assert (counts - 0.2).abs().max() < 0.01  # five standard errors
    assert abs((numbers[:, 2] < 2**31).double().mean() - 0.5) < 0.018


def test_draws_do_not_depend_on_the_options_and_are_skipped_when_unneeded() -> None:
    index = torch.tensor([4, 2, 7])
    assert torch.equal(Augment(pad=4).draw(index, 0, 0), Augment(flip=True).draw(index, 0, 0))
    assert Augment().draw(index, 0, 0) is None


def test_a_sample_is_drawn_by_its_index_and_not_by_its_place() -> None:
    whole = FULL.draw(torch.arange(10), 5, 6)
    assert torch.equal(FULL.draw(torch.tensor([7, 3]), 5, 6), whole[[7, 3]])
    data = make_data(FULL)
    pairs = epoch(data, 5, 6)
    by_label = {int(k): x for xs, ys in pairs for x, k in zip(xs, ys, strict=True)}
    cut = FULL.apply(data.train.images[3:4], whole[3:4])
    assert torch.equal(by_label[3], data.normalise(cut)[0])


def test_the_augmentation_can_be_compiled_whole() -> None:
    """No data-dependent shape, no wait for the device: one graph, and it follows its inputs."""
    images = make_split(5).images
    words = FULL.draw(torch.arange(5), 0, 0)

    def apply(images: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return FULL.apply(images, words)

    graph = make_fx(apply)(images, words)
    other = FULL.draw(torch.arange(5), 0, 1)
    assert torch.equal(graph(images, other), FULL.apply(images, other))


def test_negative_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="pad must be 0 or more"):
        Augment(pad=-1)


def test_normalisation_against_float64() -> None:
    data = make_data()
    inputs = data.normalise(data.val.images)
    pixels = data.val.images.numpy().astype(np.float64) / 255
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in (data.mean, data.std))
    assert np.allclose(inputs.numpy(), (pixels - mean) / std, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_evaluation_sees_everything_in_order_without_augmentation(name: str) -> None:
    data = make_data(FULL)
    split = getattr(data, name)
    batches = list(data.eval_batches(name, 4))
    assert [len(y) for _, y in batches][-1] == len(split) % 4
    assert torch.equal(torch.cat([y for _, y in batches]), split.labels)
    assert torch.equal(raw(data, torch.cat([x for x, _ in batches])), split.images)


def test_evaluation_refuses_bad_arguments_at_once() -> None:
    with pytest.raises(ValueError, match="1 or more, not 0"):
        make_data().eval_batches("test", 0)
    with pytest.raises(ValueError, match=r"no split 'tset'.*train, val, test"):
        make_data().eval_batches("tset", 4)


def test_split_checks_shapes_and_dtypes() -> None:
    images, labels = make_split(4).images, make_split(4).labels
    for bad in (images.float(), images[0], images[..., :5]):
        with pytest.raises(ValueError, match="uint8"):
            Split(bad, labels)
    for wrong in (labels[:3], labels.int()):
        with pytest.raises(ValueError, match="int64"):
            Split(images, wrong)


def test_take_keeps_labels_beside_images() -> None:
    split = make_split(8)
    for index in (torch.tensor([5, 0]), torch.arange(8) > 5):
        taken = split.take(index)
        assert torch.equal(taken.images, split.images[index])
        assert torch.equal(taken.labels, split.labels[index])


def test_to_moves_every_split() -> None:
    moved = make_data().to("meta")
    for split, count in ((moved.train, 37), (moved.val, 11), (moved.test, 7)):
        assert split.images.is_meta and split.labels.is_meta and len(split) == count
    assert (moved.name, moved.mean, moved.augment) == ("toy", (0.25, 0.5, 0.125), Augment())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sees_the_same_samples_as_the_cpu() -> None:
    data = make_data(FULL)
    there = [(x.cpu(), y.cpu()) for x, y in epoch(data.to("cuda"), 0, 0)]
    for (x, y), (gx, gy) in zip(epoch(data, 0, 0), there, strict=True):
        assert torch.equal(y, gy) and torch.allclose(x, gx, rtol=0, atol=1e-6)


def test_data_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_data().name = "other"  # type: ignore[misc]


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
