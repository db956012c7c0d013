"""Tokens that live on the device: one long stream, or a table of sequences.

Where a training window begins (in a stream) or which sequence comes next (in a table) is a pure
function of (seed, epoch, number in the epoch); evaluation goes through fixed windows in order.
The entropies of a stream are what a model that sees zero or one token back can reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bench.build import TokenShape
from bench.data import base
from bench.data.base import Batch, SplitName, below, random_words
from bench.seeding import generator


class Entropies(NamedTuple):
    """Nats a token. ``bigram`` is the conditional entropy of a token given the one before it."""

    unigram: float
    bigram: float


def entropies(tokens: Tensor, vocab_size: int) -> Entropies:
    """Return the empirical entropies of ``tokens``, int [N] below ``vocab_size``, N >= 2.

    They are the least cross-entropies that any unigram or bigram model has on this very stream
    (the one fitted to it); fitted elsewhere, such a model has more.
    """
    tokens = tokens.long()
    pairs = torch.bincount(tokens[:-1] * vocab_size + tokens[1:], minlength=vocab_size**2)
    return Entropies(
        unigram=_entropy(torch.bincount(tokens)),
        bigram=_entropy(pairs) - _entropy(torch.bincount(tokens[:-1])),
    )


def _entropy(counts: Tensor) -> float:
    p = counts[counts > 0].double() / counts.sum()
    return float(-(p * p.log()).sum())


@dataclasses.dataclass(frozen=True, eq=False)
class TokenStream(base.Dataset):
    """Language modelling on one stream of tokens a split; targets are the inputs shifted by one.

    An epoch is as many windows of ``context_length`` as the training stream has end to end, each
    at a random offset; evaluation cuts a split into consecutive windows, each input token once
    (what is left over, less than a window, is not used).

    Args:
        name: for messages.
        vocab_size: tokens are below it.
        context_length: T, tokens a window.
        train, val, test: int [N] of any integer dtype, N > T, all on one device.
        origin: where they come from, with a checksum, for the record.

    Raises:
        ValueError: ``context_length`` is below 1, or a split is shorter than one window.
    """

    UNIT = "windows"
    vocab_size: int
    context_length: int
    train: Tensor
    val: Tensor
    test: Tensor
    origin: str | None = None

    def __post_init__(self) -> None:
        check_context(self.context_length)
        for split in base.SPLITS:
            length = len(getattr(self, split))
            if length <= self.context_length:
                raise ValueError(
                    f"context_length={self.context_length} needs more than {length} tokens, which "
                    f"is what the {split} split of {self.name} has: choose a shorter one"
                )

    @property
    def shape(self) -> TokenShape:
        """Vocabulary and context; the classes are the vocabulary."""
        return TokenShape(self.vocab_size, self.context_length, self.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the tokens live and the batches are made."""
        return self.train.device

    def to(self, device: torch.device | str) -> TokenStream:
        """Return the dataset with all its splits on ``device``."""
        moved = {name: getattr(self, name).to(device) for name in base.SPLITS}
        return dataclasses.replace(self, **moved)

    def entropies(self, split: SplitName) -> Entropies:
        """Return what a model that sees no or one token back can reach, nats a token."""
        return entropies(getattr(self, split), self.vocab_size)

    def size(self, split: SplitName) -> int:
        """Return how many windows fit end to end."""
        tokens: Tensor = getattr(self, split)
        return (len(tokens) - 1) // self.context_length

    def _train_batches(
        self, seed: int, epoch: int, batch_size: int, steps: range
    ) -> Iterator[Batch]:
        number = torch.arange(len(steps) * batch_size, device=self.device)
        words = random_words(number + steps.start * batch_size, 1, seed, "offsets", epoch)
        offsets = below(words[:, 0], len(self.train) - self.context_length)
        for first in range(0, len(offsets), batch_size):
            yield self._windows(self.train, offsets[first : first + batch_size])

    def _eval_batches(self, split: SplitName, batch_size: int) -> Iterator[Batch]:
        offsets = torch.arange(self.size(split), device=self.device) * self.context_length
        for first in range(0, len(offsets), batch_size):
            yield self._windows(getattr(self, split), offsets[first : first + batch_size])

    def _windows(self, tokens: Tensor, first: Tensor) -> Batch:
        position = torch.arange(self.context_length + 1, device=self.device)
        window = tokens[first[:, None] + position].long()
        return window[:, :-1], window[:, 1:]


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """``tokens`` int [N, L] and ``labels`` int64 [N], or None where the next token is the target.

    With labels, all L tokens are the input; without, the first L - 1, and the targets are shifted.
    """

    tokens: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> Sequences:
        """Return the sequences on ``device``."""
        return Sequences(
            self.tokens.to(device), None if self.labels is None else self.labels.to(device)
        )

    def batch(self, index: Tensor | slice) -> Batch:
        """Return the samples at ``index``."""
        tokens = self.tokens[index].long()
        if self.labels is None:
            return tokens[:, :-1], tokens[:, 1:]
        return tokens, self.labels[index]


@dataclasses.dataclass(frozen=True, eq=False)
class TokenTable(base.Dataset):
    """A dataset of equally long sequences, for language modelling or classification.

    Args:
        name: for messages.
        shape: what a model must know; ``num_classes`` is the vocabulary in language modelling.
        train, val, test: the splits, on one device.
    """

    UNIT = "sequences"
    shape: TokenShape
    train: Sequences
    val: Sequences
    test: Sequences

    @property
    def device(self) -> torch.device:
        """Where the tokens live and the batches are made."""
        return self.train.tokens.device

    def to(self, device: torch.device | str) -> TokenTable:
        """Return the dataset with all its splits on ``device``."""
        train, val, test = (split.to(device) for split in (self.train, self.val, self.test))
        return dataclasses.replace(self, train=train, val=val, test=test)

    def size(self, split: SplitName) -> int:
        """Return the number of sequences of a split."""
        return len(self._split(split))

    def _split(self, name: SplitName) -> Sequences:
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def _train_batches(
        self, seed: int, epoch: int, batch_size: int, steps: range
    ) -> Iterator[Batch]:
        order = torch.randperm(len(self.train), generator=generator(seed, "order", epoch))
        order = order.to(self.device)
        firsts = range(steps.start * batch_size, steps.stop * batch_size, batch_size)
        return (self.train.batch(order[first : first + batch_size]) for first in firsts)

    def _eval_batches(self, split: SplitName, batch_size: int) -> Iterator[Batch]:
        source = self._split(split)
        firsts = range(0, len(source), batch_size)
        return (source.batch(slice(first, first + batch_size)) for first in firsts)


def check_context(context_length: int) -> None:
    """Raise ValueError unless a context is 1 token or longer."""
    if context_length < 1:
        raise ValueError(f"context_length must be 1 or more tokens, not {context_length}")
