"""Images that live as uint8 on the device, and the batches drawn from them.

The order of an epoch is a pure function of (seed, epoch) and the augmentation of a sample a pure
function of (seed, epoch, sample index), so an epoch entered in the middle continues with the very
same batches. Crop, flip and normalisation run vectorised where the data lives. Stratified splits
and per-channel statistics are exact and reproducible.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.build import ImageShape
from bench.data import base
from bench.data.base import Batch, SplitName, below, random_words
from bench.seeding import generator


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """``images`` uint8 [N, C, H, W] (H = W) and ``labels`` int64 [N], on one device.

    Raises:
        ValueError: shapes or dtypes are not these.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[2] != shape[3]:
            raise ValueError(f"images must be uint8 [N, C, H, H], not {self.images.dtype} {shape}")
        if self.labels.dtype != torch.int64 or tuple(self.labels.shape) != shape[:1]:
            given = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise ValueError(f"labels must be int64 [{shape[0]}], one an image, not {given}")

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device | str) -> Split:
        """Return the split on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))

    def take(self, index: Tensor) -> Split:
        """Return the samples at ``index`` (int64 or bool), labels beside their images."""
        return Split(self.images[index], self.labels[index])


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random crop after zero padding by ``pad`` pixels, and a horizontal flip with probability 1/2.

    Padding is of the raw image, before normalisation (black, as in the usual CIFAR recipe), so the
    border has the normalised value of a black pixel and not zero.

    Raises:
        ValueError: ``pad`` is negative.
    """

    pad: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad must be 0 or more pixels, not {self.pad}")

    def draw(self, index: Tensor, seed: int, epoch: int) -> Tensor | None:
        """Return the random words of the samples ``index``, int64 [N, 3], None if unneeded.

        Columns: vertical shift, horizontal shift, flip, uniform in [0, 2^32) whatever the options,
        so that switching one of them leaves the other's draws as they were.
        """
        if not self.pad and not self.flip:
            return None
        return random_words(index, 3, seed, "augment", epoch)

    def apply(self, images: Tensor, words: Tensor) -> Tensor:
        """Crop and flip uint8 images [B, C, H, W] by their ``words`` [B, 3]; same shape."""
        size, device = images.shape[-1], images.device
        shift = below(words[:, :2], 2 * self.pad + 1)
        pixel = torch.arange(size, device=device)
        rows = shift[:, :1] + pixel
        columns = shift[:, 1:] + pixel
        if self.flip:
            columns = torch.where(below(words[:, 2:], 2) == 0, columns.flip(1), columns)
        padded = F.pad(images, (self.pad,) * 4)
        sample = torch.arange(images.shape[0], device=device)[:, None, None, None]
        channel = torch.arange(images.shape[1], device=device)[None, :, None, None]
        return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData(base.Dataset):
    """One classification dataset: three disjoint splits, normalisation and augmentation.

    ``mean`` and ``std`` are one number a channel, of pixels scaled to [0, 1]. All splits are on one
    device; ``to`` moves them. ``origin`` is where they come from, for the record.
    """

    num_classes: int
    train: Split
    val: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment = Augment()
    origin: str | None = None

    @property
    def shape(self) -> ImageShape:
        """Channels, classes and side in pixels."""
        _, channels, size, _ = self.train.images.shape
        return ImageShape(channels, self.num_classes, size)

    @property
    def device(self) -> torch.device:
        """Where the images live and the batches are made."""
        return self.train.images.device

    def to(self, device: torch.device | str) -> ImageData:
        """Return the dataset with all its splits on ``device``."""
        train, val, test = (split.to(device) for split in (self.train, self.val, self.test))
        return dataclasses.replace(self, train=train, val=val, test=test)

    def size(self, split: SplitName) -> int:
        """Return the number of images of a split."""
        return len(self._split(split))

    def _split(self, name: SplitName) -> Split:
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images [B, C, H, W] as float32 with this dataset's mean and std removed."""
        return normalise(images, self.mean, self.std)

    def _train_batches(
        self, seed: int, epoch: int, batch_size: int, steps: range
    ) -> Iterator[Batch]:
        order = torch.randperm(len(self.train), generator=generator(seed, "order", epoch))
        order = order.to(self.device)
        words = self.augment.draw(order, seed, epoch)
        for step in steps:
            here = slice(step * batch_size, (step + 1) * batch_size)
            images = self.train.images[order[here]]
            if words is not None:
                images = self.augment.apply(images, words[here])
            yield self.normalise(images), self.train.labels[order[here]]

    def _eval_batches(self, split: SplitName, batch_size: int) -> Iterator[Batch]:
        images, labels = self._split(split).images, self._split(split).labels
        for first in range(0, len(labels), batch_size):
            last = first + batch_size
            yield self.normalise(images[first:last]), labels[first:last]


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return uint8 images [B, C, H, W] as float32, less ``mean`` and divided by ``std``.

    Both are one number a channel, of pixels scaled to [0, 1].
    """
    device = images.device
    return images.float().sub_(_levels(mean, device)).div_(_levels(std, device))


@functools.lru_cache(maxsize=64)
def _levels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return [C, 1, 1] in levels of 0..255; made once, for a copy to the device waits for it."""
    return torch.tensor(values, device=device)[:, None, None] * 255


def held_out_count(size: int | float, total: int, what: str = "validation") -> int:
    """Return how many of ``total`` samples ``size`` means: a fraction (float) or a count (int).

    Raises:
        ValueError: it is no number of that kind, or leaves one of the two parts empty.
    """
    valid = isinstance(size, int | float) and not isinstance(size, bool) and math.isfinite(size)
    if valid and (isinstance(size, int) or 0 < size < 1):
        count = size if isinstance(size, int) else round(size * total)
        if 0 < count < total:
            return count
    raise ValueError(
        f"{what}={size} cannot be taken out of {total} images: give a fraction between 0 and 1 "
        f"(0.1) or a count from 1 to {total - 1}"
    )


def split_stratified(source: Split, count: int, stream: torch.Generator) -> tuple[Split, Split]:
    """Return (rest, held out) as `stratified` chooses, both in their original order."""
    held = stratified(source.labels.cpu(), count, stream).to(source.images.device)
    return source.take(~held), source.take(held)


def stratified(labels: Tensor, count: int, stream: torch.Generator) -> Tensor:
    """Return which of the samples to hold out, bool [N]: exactly ``count``, by class shares.

    A class of k samples gives k * count / N rounded down; what is missing comes from the classes
    with the largest remainders. ``labels`` are int64 [N] on the CPU.
    """
    classes, sizes = torch.unique(labels, return_counts=True)
    quota = sizes * count // len(labels)
    remainder = sizes * count % len(labels)
    most = remainder.argsort(descending=True, stable=True)[: count - int(quota.sum())]
    quota[most] += 1
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, wanted in zip(classes, quota.tolist(), strict=True):
        members = (labels == label).nonzero().flatten()
        held[members[torch.randperm(len(members), generator=stream)[:wanted]]] = True
    return held


def split_validation(
    images: Tensor, labels: Tensor, size: int | float, seed: int
) -> tuple[Split, Split]:
    """Return (train, validation), the latter chosen by the run's ``seed``, stratified by class.

    Args:
        images: uint8 [N, C, H, W], the training images of the dataset.
        labels: int64 [N].
        size: a fraction of N (float between 0 and 1) or a count (int).
        seed: the run's seed; it decides which samples, never how many.

    Raises:
        ValueError: ``size`` leaves one of the two parts empty.
    """
    source = Split(images, labels)
    count = held_out_count(size, len(source))
    return split_stratified(source, count, generator(seed, "validation"))


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, std) a channel of uint8 images [N, C, H, W], for pixels scaled to [0, 1].

    Sums are of integers, hence exact and the same everywhere. A constant channel has std 1, so
    that it normalises to zero.
    """
    channels = images.shape[1]
    total, squares = torch.zeros(2, channels, dtype=torch.int64, device=images.device)
    for chunk in torch.split(images, 1024):
        values = chunk.long()
        total += values.sum(dim=(0, 2, 3))
        squares += values.square().sum(dim=(0, 2, 3))
    count = images.numel() // channels
    means, stds = [], []
    for first, second in zip(total.tolist(), squares.tolist(), strict=True):
        variance = (count * second - first * first) / count**2
        means.append(first / count / 255)
        stds.append(math.sqrt(variance) / 255 if variance > 0 else 1.0)
    return tuple(means), tuple(stds)
