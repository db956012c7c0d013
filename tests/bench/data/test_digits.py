"""The embedded digits, as they come out of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from bench.build import ImageShape
from bench.data.digits import load, shape
from bench.data.images import Augment, ImageData

NOWHERE = Path("no/such/folder")


def pairs(data: ImageData, *splits: str) -> list[tuple[bytes, int]]:
    chosen = [getattr(data, name) for name in splits]
    return sorted(
        (image.numpy().tobytes(), int(label))
        for split in chosen
        for image, label in zip(split.images, split.labels, strict=True)
    )


def test_sizes() -> None:
    data = load(NOWHERE, 0)
    assert (data.name, data.shape) == ("digits", ImageShape(1, 10, 8))
    assert shape(validation=0.2) == data.shape
    assert (len(data.train), len(data.val), len(data.test)) == (1294, 144, 359)
    assert data.augment == Augment()


def test_every_image_of_scikit_learn_is_in_exactly_one_split() -> None:
    bunch = load_digits()
    expected = sorted(
        (np.floor(image * 255 / 16 + 0.5).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    assert pairs(load(NOWHERE, 3), "train", "val", "test") == expected


def test_scaling_covers_the_whole_range() -> None:
    images = load(NOWHERE, 0).train.images
    assert images.unique().tolist() == [round(v * 255 / 16 + 1e-9) for v in range(17)]


def test_test_split_and_statistics_do_not_depend_on_the_seed() -> None:
    first, second = load(NOWHERE, 0), load(NOWHERE, 1)
    assert torch.equal(first.test.images, second.test.images)
    assert torch.equal(first.test.labels, second.test.labels)
    assert (first.mean, first.std) == (second.mean, second.std)
    assert pairs(first, "train", "val") == pairs(second, "train", "val")
    assert pairs(first, "val") != pairs(second, "val")


def test_same_seed_same_data() -> None:
    first, second = load(NOWHERE, 2), load(NOWHERE, 2)
    for name in ("train", "val", "test"):
        assert torch.equal(getattr(first, name).images, getattr(second, name).images)
        assert torch.equal(getattr(first, name).labels, getattr(second, name).labels)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_splits_are_stratified(name: str) -> None:
    labels = getattr(load(NOWHERE, 0), name).labels
    whole = torch.as_tensor(load_digits().target).bincount() / 1797
    assert ((labels.bincount() - whole * len(labels)).abs() < 2).all()


def test_statistics_are_those_of_the_non_test_images() -> None:
    data = load(NOWHERE, 0)
    images = torch.cat([data.train.images, data.val.images]).double() / 255
    assert data.mean[0] == pytest.approx(images.mean().item(), rel=1e-12)
    assert data.std[0] == pytest.approx(images.std(correction=0).item(), rel=1e-12)


def test_options() -> None:
    data = load(NOWHERE, 0, validation=100, pad=1, flip=True)
    assert len(data.val) == 100 and data.augment == Augment(pad=1, flip=True)
    with pytest.raises(ValueError, match=r"validation=2\.0"):
        load(NOWHERE, 0, validation=2.0)
    with pytest.raises(ValueError, match="pad must be"):
        load(NOWHERE, 0, pad=-1)
