"""Cuts against torchvision's own functions, and their distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.compat import ensure_torchvision
from bench.data.base import random_words
from bench.data.imagenet import WORDS, centre, cut, random_box

ensure_torchvision()
import torchvision.transforms.functional as TF  # noqa: E402 (only safe after the call above)


def photograph(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def words(sample: int) -> torch.Tensor:
    return random_words(torch.tensor([sample]), WORDS, 0, "crop", 0)[0]


@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    drawn=st.lists(st.integers(0, 2**32 - 1), min_size=WORDS, max_size=WORDS),
)
@settings(max_examples=200, deadline=None)
def test_a_box_lies_inside_and_has_area_and_ratio(
    width: int, height: int, drawn: list[int]
) -> None:
    left, top, right, bottom = random_box(width, height, torch.tensor(drawn))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    if min(width, height) > 30:  # whole pixels say little of smaller ones
        assert 0.7 < w / h < 1.43 or min(width / height, height / width) < 0.7
        assert w * h > 0.06 * width * height or min(width / height, height / width) < 0.2


def test_boxes_are_spread_as_they_should_be() -> None:
    width, height, count = 500, 400, 4000
    boxes = torch.tensor([random_box(width, height, words(k)) for k in range(count)]).double()
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = w * h / (width * height)
    small = area < 0.4  # these always fit
    ratio = (w / h).log()
    assert abs(ratio[small].mean()) < 0.02 and ratio.abs().max() < math.log(4 / 3) + 0.02
    assert area.min() > 0.07 and area.max() > 0.9
    # Uniform from 0.08 on among those.
    assert abs((area[small] < 0.24).double().mean() - 0.5) < 0.05
    place = (boxes[:, 0] / (width - w + 1))[small]
    assert abs(place.mean() - 0.5) < 0.02 and abs(place.std() - 12**-0.5) < 0.02


@pytest.mark.parametrize(("width", "height"), [(10, 400), (400, 10), (1, 1)])
def test_what_never_fits_gives_the_largest_central_part(width: int, height: int) -> None:
    never = torch.full((WORDS,), 2**32 - 1)  # all of the area, as wide as allowed
    never[1 : WORDS - 2 : 2] = 0 if width > height else 2**32 - 1
    left, top, right, bottom = random_box(width, height, never)
    w, h = right - left, bottom - top
    assert abs(left - (width - right)) <= 1 and abs(top - (height - bottom)) <= 1
    # As torchvision: the ratio of a too long image becomes the limit on that side.
    if width < height:
        assert (w, h) == (width, round(width / (3 / 4)))
    elif height < width:
        assert (h, w) == (height, round(height * (4 / 3)))


def test_a_box_is_a_function_of_the_words() -> None:
    assert random_box(300, 200, words(5)) == random_box(300, 200, words(5).clone())
    assert len({random_box(300, 200, words(k)) for k in range(50)}) == 50


@pytest.mark.parametrize("box", [(3, 5, 60, 41), (0, 0, 90, 70), (20, 10, 24, 13)])
def test_cutting_agrees_with_torchvision(box: tuple[int, int, int, int]) -> None:
    image = photograph(90, 70)
    left, top, right, bottom = box
    expected = TF.resized_crop(image, top, left, bottom - top, right - left, [32, 32])
    found = cut(image, box, 32)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.array(expected))


@pytest.mark.parametrize("shape", [(300, 200), (200, 301), (257, 257), (40, 50)])
@pytest.mark.parametrize("size", [224, 33])
def test_the_centre_agrees_with_torchvision(shape: tuple[int, int], size: int) -> None:
    image = photograph(*shape)
    expected = TF.center_crop(TF.resize(image, [int(size * 256 / 224)]), [size, size])
    found = centre(image, size)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.array(expected))
