"""Images of Gaussian noise around orthogonal patterns: any size, and a known Bayes error.

Class k is a low-frequency cosine pattern (one function of the orthonormal 3-D DCT-II basis, over
channels, rows and columns) of Euclidean length ``separation`` standard deviations of the white
noise that is added. A classifier that knows the patterns takes the largest of K correlations, so
its accuracy is that of the textbook's M-ary orthogonal signalling (Proakis, Digital
Communications, section 4.4):

    P(correct) = integral of phi(z) Phi(z + separation)^(K - 1) dz

`bayes_error` computes it by quadrature. Rounding to 256 levels and cutting off at 0 and 255 (four
standard deviations away) change it by less than 1e-3, which the tests check. Augmentation would
change the patterns: it is off by default and on only to measure throughput.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

from bench.build import ImageShape
from bench.data.images import Augment, ImageData, Split, channel_statistics, split_validation
from bench.data.streaming import ImageStream, InMemory

NAME = "synthetic_images"
_SEED = 1002  # of the images: one for all runs, as downloaded ones would be
_NOISE = 32.0  # standard deviation, in levels of 0..255
_GREY = 128.0
_CHUNK = 4096  # images made at once


def shape(
    in_channels: int = 3, num_classes: int = 10, image_size: int = 32, **_options: object
) -> ImageShape:
    """Return the shape of the images.

    Raises:
        ValueError: a size is below 1, or there are not as many patterns as classes.
    """
    pixels = in_channels * image_size**2
    if min(in_channels, image_size) < 1 or not 2 <= num_classes < pixels:
        raise ValueError(
            f"num_classes={num_classes} does not fit images of {in_channels}x{image_size}x"
            f"{image_size}: choose from 2 to {max(pixels - 1, 2)} classes, or larger images"
        )
    return ImageShape(in_channels, num_classes, image_size)


def load(
    root: Path,  # noqa: ARG001 (every dataset is called with it; this one needs no folder)
    seed: int,
    *,
    in_channels: int = 3,
    num_classes: int = 10,
    image_size: int = 32,
    count: int = 10_000,
    test_count: int = 2_000,
    separation: float = 4.0,
    validation: int | float = 0.1,
    pad: int = 0,
    flip: bool = False,
    workers: int | None = None,
) -> ImageData | ImageStream:
    """Return the images, one class after another.

    Args:
        root: the data folder, unused.
        seed: the run's seed, which chooses the validation images.
        in_channels: channels of an image.
        num_classes: number of classes.
        image_size: side of the square images, in pixels.
        count: images for training and validation.
        test_count: test images.
        separation: length of a pattern in standard deviations of the noise: the difficulty.
        validation: fraction (float) or count (int) of ``count``.
        pad: zero padding of the random crop, in pixels; 0 switches it off.
        flip: random horizontal flips.
        workers: None keeps the images on the device; a number has so many processes stream them,
            which changes nothing in the result.

    Raises:
        ValueError: an option is out of range.
    """
    given = shape(in_channels, num_classes, image_size)
    if min(count, test_count) < 1:
        raise ValueError(f"count={count} and test_count={test_count} must be 1 or more images")
    patterns = make_patterns(given) * (check_separation(separation) * _NOISE)
    stream = torch.Generator().manual_seed(_SEED)
    everything, test = (_draw(patterns, size, stream) for size in (count, test_count))
    mean, std = channel_statistics(everything.images)
    train, val = split_validation(everything.images, everything.labels, validation, seed)
    augment = Augment(pad, flip)
    if workers is None:
        return ImageData(NAME, num_classes, train, val, test, mean, std, augment)
    parts = InMemory(train), InMemory(val), InMemory(test)
    return ImageStream(NAME, given, *parts, mean, std, augment, workers)


def prepare(
    root: Path,  # noqa: ARG001 (needs no folder)
    num_classes: int = 10,
    separation: float = 4.0,
    **_options: object,
) -> str:
    """Return a line that states the Bayes error; nothing has to be made."""
    error = bayes_error(num_classes, separation)
    return f"{NAME}: nothing is needed; Bayes error {100 * error:.2f} %"


def bayes_error(num_classes: int, separation: float) -> float:
    """Return the error of the best possible classifier, to about 1e-9 (before rounding to bytes).

    Raises:
        ValueError: ``separation`` is negative.
    """
    check_separation(separation)

    def wrong(z: float) -> float:
        others = (num_classes - 1) * norm.logcdf(z + separation)
        return float(norm.pdf(z) * -math.expm1(others))

    error, _ = quad(wrong, -12, 12, epsabs=1e-12, limit=200)
    return float(error)


def make_patterns(given: ImageShape) -> Tensor:
    """Return one orthonormal pattern a class, float32 [K, C, H, H], low frequencies first.

    The constant pattern is left out: it would be seen by its brightness alone.
    """
    sizes = (given.in_channels, given.image_size, given.image_size)
    frequencies = sorted(itertools.product(*map(range, sizes)), key=lambda f: (sum(f), f))
    bases = [_cosines(size) for size in sizes]
    return torch.stack(
        [
            torch.einsum("c,h,w->chw", *(basis[f] for basis, f in zip(bases, each, strict=True)))
            for each in frequencies[1 : given.num_classes + 1]
        ]
    ).float()


def check_separation(separation: float) -> float:
    """Return ``separation``; raise ValueError where it is negative."""
    if separation < 0:
        raise ValueError(f"separation must be 0 or more standard deviations, not {separation}")
    return separation


def _cosines(size: int) -> Tensor:
    """Return the orthonormal DCT-II basis, float64 [size, size], one frequency a row."""
    place, frequency = torch.arange(size).double() + 0.5, torch.arange(size).double()
    rows = torch.cos(math.pi / size * frequency[:, None] * place)
    return F.normalize(rows)


def _draw(patterns: Tensor, count: int, stream: torch.Generator) -> Split:
    labels = torch.arange(count) % len(patterns)
    images = torch.empty((count, *patterns.shape[1:]), dtype=torch.uint8)
    chunks = torch.split(labels, _CHUNK), torch.split(images, _CHUNK)
    for chunk, out in zip(*chunks, strict=True):
        noise = torch.randn(out.shape, generator=stream).mul_(_NOISE)
        out.copy_(noise.add_(patterns[chunk]).add_(_GREY).round_().clamp_(0, 255))
    return Split(images, labels)
