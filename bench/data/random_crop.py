"""Cuts of photographs of any size to a square, as ImageNet training and evaluation use them.

The random cut is a pure function of a sample's random words: no generator, no state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.data.counter import below, uniform

if TYPE_CHECKING:
    from PIL.Image import Image

_ATTEMPTS = 10
WORDS = 2 * _ATTEMPTS + 2  # a sample
_SCALE = (0.08, 1.0)  # share of the area
_RATIO = (3 / 4, 4 / 3)  # width by height
_EVALUATION = 256 / 224  # shorter side, in units of the square

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


def random_box(width: int, height: int, words: Tensor) -> Box:
    """Return the part of an image that a random resized crop takes (Szegedy et al. 2015).

    Area and aspect ratio are drawn up to ten times, until the part fits; then its place. If none
    fits, it is the largest central part of an allowed ratio. As torchvision's RandomResizedCrop.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        words: int64 [WORDS] in [0, 2^32).
    """
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    numbers = uniform(words[:-2]).reshape(_ATTEMPTS, 2).tolist()
    for area, ratio in numbers:
        target = width * height * (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * area)
        aspect = math.exp(low + (high - low) * ratio)
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(below(words[-2], width - w + 1))
            top = int(below(words[-1], height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(round(height * _RATIO[0]), min(width, round(height * _RATIO[1]))))
    h = min(height, round(w / _RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def cut(image: Image, box: Box, size: int) -> Tensor:
    """Return the part ``box`` of an RGB image, resized bilinearly: uint8 [3, size, size]."""
    from PIL.Image import Resampling

    return _tensor(image.crop(box).resize((size, size), Resampling.BILINEAR))


def centre(image: Image, size: int) -> Tensor:
    """Return the centre of an RGB image whose shorter side becomes 256/224 of ``size``."""
    from PIL.Image import Resampling

    short = int(size * _EVALUATION)
    width, height = image.size
    if width <= height:
        scaled = (short, int(short * height / width))
    else:
        scaled = (int(short * width / height), short)
    image = image.resize(scaled, Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in image.size)
    return _tensor(image.crop((left, top, left + size, top + size)))


def _tensor(image: Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
