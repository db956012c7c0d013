"""Images that do not fit on the device: read and cut by worker processes, finished on the device.

The order of an epoch, the crop of a sample and its flip are pure functions of (seed, epoch, sample
index), so a batch is the same whatever the number of workers, and the same as `ImageData` makes of
the same images. Workers hand over uint8 in pinned memory; padding, flip and normalisation run on
the device, with the very code that serves images which live there.
"""

from __future__ import annotations

import dataclasses
import signal
import warnings
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.build import ImageShape
from bench.data import base
from bench.data.base import Batch, SplitName
from bench.data.images import Augment, Split, normalise
from bench.seeding import generator

_CPU = torch.device("cpu")
_PREFETCHED = 4  # batches a worker
_SIGNALS = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Epoch(NamedTuple):
    """What the random numbers of training images depend on, beside the sample."""

    seed: int
    number: int


class Source(Protocol):
    """A split whose images are made on demand, in worker processes: it must be picklable."""

    def __len__(self) -> int:
        """Return the number of images."""

    @property
    def labels(self) -> Tensor:
        """Classes, int64 [N]."""

    def read(self, index: list[int], epoch: Epoch | None) -> Tensor:
        """Return images, uint8 [B, C, H, H]: randomly cut for an epoch, plain without one."""


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Images that are there already and of the right size, as a source."""

    split: Split

    def __len__(self) -> int:
        return len(self.split)

    @property
    def labels(self) -> Tensor:
        """Classes, int64 [N]."""
        return self.split.labels

    def read(self, index: list[int], epoch: Epoch | None) -> Tensor:  # noqa: ARG002 (never cut)
        """Return the images as they are."""
        return self.split.images[index]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageStream(base.Dataset):
    """A classification dataset of streamed images; see `ImageData` for what is the same.

    Args:
        name: for messages.
        shape: channels, classes and side in pixels of the images that the sources give.
        train: the training images.
        val: the validation images.
        test: the test images.
        mean: one number a channel, of pixels scaled to [0, 1].
        std: likewise.
        augment: what is done on the device.
        workers: processes that read; 0 reads in this one.
        device: where batches are finished.
        origin: where the images come from, with a checksum, for the record.

    Raises:
        ValueError: ``workers`` is negative.
    """

    shape: ImageShape
    train: Source
    val: Source
    test: Source
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment = dataclasses.field(default_factory=Augment)
    workers: int = 0
    device: torch.device = _CPU
    origin: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be 0 or more processes, not {self.workers}")

    def to(self, device: torch.device | str) -> ImageStream:
        """Return the dataset with its batches on ``device``."""
        return dataclasses.replace(self, device=torch.device(device))

    def size(self, split: SplitName) -> int:
        """Return the number of images of a split."""
        return len(self._source(split))

    def _source(self, name: SplitName) -> Source:
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images [B, C, H, W] as float32 with this dataset's mean and std removed."""
        return normalise(images, self.mean, self.std)

    def _train_batches(
        self, seed: int, epoch: int, batch_size: int, steps: range
    ) -> Iterator[Batch]:
        order = torch.randperm(len(self.train), generator=generator(seed, "order", epoch))
        chosen = order[steps.start * batch_size : steps.stop * batch_size]
        for index, images, labels in self._read(self.train, chosen, batch_size, Epoch(seed, epoch)):
            words = self.augment.draw(index, seed, epoch)
            cut = images if words is None else self.augment.apply(images, words)
            yield self.normalise(cut), labels

    def _eval_batches(self, split: SplitName, batch_size: int) -> Iterator[Batch]:
        source = self._source(split)
        read = self._read(source, torch.arange(len(source)), batch_size, None)
        return ((self.normalise(images), labels) for _, images, labels in read)

    def _read(
        self, source: Source, chosen: Tensor, batch_size: int, epoch: Epoch | None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (index, images, labels) of the samples ``chosen`` on the device, in that order."""
        firsts = range(0, len(chosen), batch_size)
        batches = (chosen[first : first + batch_size].tolist() for first in firsts)
        with warnings.catch_warnings():  # whoever asks for more workers than cores may have them
            warnings.filterwarnings("ignore", "This DataLoader will create")
            loader = DataLoader(
                _Reader(source, epoch),
                sampler=batches,
                batch_size=None,  # an item is a batch
                num_workers=self.workers,
                prefetch_factor=_PREFETCHED if self.workers else None,
                pin_memory=self.device.type == "cuda",
                worker_init_fn=_leave_signals,
                generator=torch.Generator(),  # or it would draw from torch's global one
            )
            read = iter(loader)
        for batch in read:
            index, images, labels = (part.to(self.device, non_blocking=True) for part in batch)
            yield index, images, labels


class _Reader(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batches by the list of their indices."""

    def __init__(self, source: Source, epoch: Epoch | None) -> None:
        self.source, self.epoch = source, epoch

    def __getitem__(self, index: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        place = torch.tensor(index)
        return place, self.source.read(index, self.epoch), self.source.labels[place]


def _leave_signals(_worker: int) -> None:
    """Leave Ctrl-C and a scheduler's warnings, which reach all processes, to the main one.

    What the main process does on SIGTERM is not for a worker either: it just ends.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
