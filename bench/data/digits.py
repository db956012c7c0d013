"""The 1797 handwritten digits of 8x8 pixels that scikit-learn carries: no download, no files.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998 (its test
part). All splits here share writers, so the accuracies are not those of the UCI protocol.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from bench.build import ImageShape
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

TEST_FRACTION = 0.2
ORIGIN = "sklearn.datasets.load_digits"
_SHAPE = ImageShape(in_channels=1, num_classes=10, image_size=8)


def shape(**_options: object) -> ImageShape:
    """Return the shape of the images."""
    return _SHAPE


def load(
    root: Path,  # noqa: ARG001 (every dataset is called with it; these images need no folder)
    seed: int,
    *,
    validation: int | float = 0.1,
    pad: int = 0,
    flip: bool = False,
) -> ImageData:
    """Return the digits: 359 test images, the same for every seed, and the rest by ``seed``.

    Args:
        root: the data folder, unused.
        seed: the run's seed, which chooses the validation images.
        validation: fraction (float) or count (int) of the 1438 non-test images.
        pad: zero padding of the random crop, in pixels; 0 switches it off.
        flip: random horizontal flips; they make no sense for digits.

    Raises:
        ValueError: an option is out of range.
    """
    table = torch.from_numpy(np.loadtxt(_file(), delimiter=",")).long()  # 64 pixels, and the digit
    # 0..16 becomes 0..255 through integers, so that no platform rounds differently.
    scaled = (table[:, :-1] * 255 + 8) // 16
    images = scaled.to(torch.uint8).reshape(-1, 1, 8, 8)
    everything = Split(images, table[:, -1].clone())
    count = held_out_count(TEST_FRACTION, len(everything))
    rest, test = split_stratified(everything, count, generator(0, "digits test split"))
    mean, std = channel_statistics(rest.images)
    train, val = split_validation(rest.images, rest.labels, validation, seed)
    return ImageData(
        "digits", _SHAPE.num_classes, train, val, test, mean, std, Augment(pad, flip), ORIGIN
    )


def _file() -> Path:
    """Return where the images lie; to import scikit-learn takes two seconds, and only reads them.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ImportError("the digits come with scikit-learn: pip install scikit-learn")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
