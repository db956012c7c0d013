"""What every dataset has in common: its splits, its shape, and the batches drawn from it.

Random numbers are counter-based, a pure function of (key, index) with the same bits on every
device: those of a sample do not depend on which samples are drawn beside it, in which process, or
on what was drawn before. Everything is integer arithmetic in int64 that cannot overflow, of fixed
shape and without host synchronisation, so it can be compiled and captured. Based on the 32-bit
finaliser of C. Wellons' hash prospector ("lowbias32").
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from bench.build import Shape
from bench.seeding import derive

SplitName: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
Batch: TypeAlias = tuple[Tensor, Tensor]


class MissingDataError(ValueError):
    """A dataset's files are absent or unreadable; the message gives the command that gets them."""


@runtime_checkable
class Data(Protocol):
    """A dataset as the training loop sees it.

    A batch is (inputs, targets) on `device`: images float32 [B, C, H, H] with classes int64 [B],
    or tokens int64 [B, T] with next tokens int64 [B, T] or classes int64 [B].
    """

    @property
    def name(self) -> str:
        """The dataset's name, for messages."""

    @property
    def shape(self) -> Shape:
        """What a model must know of the samples."""

    @property
    def device(self) -> torch.device:
        """Where batches are made."""

    def to(self, device: torch.device | str) -> Data:
        """Return the dataset with its batches on ``device``."""

    def size(self, split: SplitName) -> int:
        """Return the number of samples of a split: of images, or of windows of tokens."""

    def check_batch_size(self, batch_size: int) -> None:
        """Raise ValueError unless an epoch has at least one full batch of ``batch_size``."""

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of training batches an epoch; the last partial one is dropped."""

    def train_batches(
        self, seed: int, epoch: int, batch_size: int, start: int = 0
    ) -> Iterator[Batch]:
        """Yield the epoch's batches from batch number ``start``, a pure function of all four."""

    def eval_batches(self, split: SplitName, batch_size: int) -> Iterator[Batch]:
        """Yield all samples of a split in order, unaugmented, the last partial batch included."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset(ABC):
    """What all our datasets have in common: which batches an epoch has, and what is refused.

    ``UNIT`` is what messages call the samples.
    """

    UNIT: ClassVar[str] = "images"
    name: str

    @abstractmethod
    def size(self, split: SplitName) -> int:
        """Return the number of samples of a split."""

    @abstractmethod
    def _train_batches(
        self, seed: int, epoch: int, batch_size: int, steps: range
    ) -> Iterator[Batch]:
        """Yield the batches of these numbers of an epoch."""

    @abstractmethod
    def _eval_batches(self, split: SplitName, batch_size: int) -> Iterator[Batch]:
        """Yield all samples of a split in order."""

    def check_batch_size(self, batch_size: int) -> None:
        """Raise ValueError unless an epoch has at least one full batch of ``batch_size``."""
        count = self.size("train")
        if not 1 <= batch_size <= count:
            raise ValueError(
                f"batch size {batch_size} does not fit dataset {self.name}, whose training split "
                f"has {count} {self.UNIT}: choose a batch size from 1 to {count}"
            )

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of training batches an epoch; the last partial one is dropped."""
        self.check_batch_size(batch_size)
        return self.size("train") // batch_size

    def train_batches(
        self, seed: int, epoch: int, batch_size: int, start: int = 0
    ) -> Iterator[Batch]:
        """Yield the epoch's batches from batch number ``start``; their types are in `Data`.

        Raises:
            ValueError: ``batch_size`` does not fit, or ``start`` is beyond the epoch's end.
        """
        steps = self.steps_per_epoch(batch_size)
        if not 0 <= start <= steps:
            raise ValueError(f"start must be from 0 to {steps} batches of an epoch, not {start}")
        return self._train_batches(seed, epoch, batch_size, range(start, steps))

    def eval_batches(self, split: SplitName, batch_size: int) -> Iterator[Batch]:
        """Yield all samples of ``split`` in order, unaugmented, the last partial batch included.

        Raises:
            ValueError: the split's name is unknown, or ``batch_size`` is below 1.
        """
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}: choose one of {', '.join(SPLITS)}")
        if batch_size < 1:
            raise ValueError(f"evaluation batch size must be 1 or more, not {batch_size}")
        return self._eval_batches(split, batch_size)


_WORD = 0xFFFFFFFF
_LANE = 0x9E3779B9  # the golden ratio in 32 bits keeps lanes of neighbouring samples apart


def random_words(index: Tensor, lanes: int, seed: int, *purpose: str | int) -> Tensor:
    """Return uniform integers in [0, 2^32), int64 [N, lanes].

    Args:
        index: int64 [N] in [0, 2^32), which sample; its device is the result's.
        lanes: numbers a sample.
        seed: the run's seed.
        purpose: what the numbers are for, as in `bench.seeding.derive`.
    """
    key = derive(seed, *purpose)
    lane = torch.arange(lanes, device=index.device) * _LANE & _WORD
    words = _mixed(index[:, None] ^ (key & _WORD))
    return _mixed(_mixed(words ^ key >> 32) ^ lane)


def below(words: Tensor, bound: int) -> Tensor:
    """Return ``words`` of [0, 2^32) scaled down to integers in [0, bound), bound up to 2^31."""
    return words * bound >> 32


def uniform(words: Tensor) -> Tensor:
    """Return ``words`` of [0, 2^32) as float64 in [0, 1), exactly."""
    return words.double() * 2.0**-32


def _mixed(words: Tensor) -> Tensor:
    """Map [0, 2^32) onto itself so that each input bit changes about half of the output's."""
    words = _times(words ^ words >> 16, 0x7FEB352D)
    words = _times(words ^ words >> 15, 0x846CA68B)
    return words ^ words >> 16


def _times(words: Tensor, factor: int) -> Tensor:
    """Return the product modulo 2^32, in halves of at most 48 bits so that none overflows."""
    high = ((words >> 16) * factor & 0xFFFF) << 16
    return high + (words & 0xFFFF) * factor & _WORD
