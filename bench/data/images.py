"""Images that live as uint8 on the device, and the batches drawn from them.

The order of an epoch is a pure function of (seed, epoch) and the augmentation of a sample a pure
function of (seed, epoch, sample index), so an epoch entered in the middle continues with the very
same batches. Crop, flip and normalisation run vectorised where the data lives.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.build import ImageShape
from bench.data import base
from bench.data.base import Batch, SplitName
from bench.data.counter import below, random_words
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
            found = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise ValueError(f"labels must be int64 [{shape[0]}], one an image, not {found}")

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
    device; ``to`` moves them. ``origin``, for the record, says where they come from.
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
