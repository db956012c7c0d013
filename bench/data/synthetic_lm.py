"""Sequences of a Markov chain whose entropy rate is known: language modelling without files.

The study trained its GPT on "synthetic LM" data that it does not describe; these are ours. Each
token has ``branching`` successors, drawn by Zipf's law over the vocabulary and then followed with
Zipf's probabilities 1/r, so that both the marginal and the transitions are heavy-tailed as in
text. Sequences start in the stationary distribution.

``task="classification"`` has two such chains that share a part of their transitions; a sequence's
class is the chain that made it. The corpus does not depend on the run's seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from bench.build import TokenShape
from bench.data.tokens import Sequences, TokenTable, check_context

Task: TypeAlias = Literal["lm", "classification"]
Array: TypeAlias = NDArray[np.float64]

_SEED = 2606  # of the corpus: one for all runs, as a downloaded one would be
_CLASSES = 2


class Chain(NamedTuple):
    """``transition`` [V, V], rows sum to 1; its ``stationary`` distribution [V]."""

    transition: Array
    stationary: Array

    @property
    def entropy_rate(self) -> float:
        """Nats a token: the least cross-entropy of any model, whatever its context."""
        return float(self.stationary @ _entropies(self.transition))

    @property
    def unigram_entropy(self) -> float:
        """Nats a token: the least cross-entropy of a model without context."""
        return float(_entropies(self.stationary))


def _entropies(p: Array) -> Array:
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1))


def shape(
    context_length: int = 128,
    vocab_size: int = 512,
    task: Task = "lm",
    **_options: object,
) -> TokenShape:
    """Return the shape of the sequences.

    Raises:
        ValueError: a size is out of range.
    """
    check_context(context_length)
    if vocab_size < 2:
        raise ValueError(f"vocab_size must be 2 or more, not {vocab_size}")
    return TokenShape(vocab_size, context_length, vocab_size if task == "lm" else _CLASSES)


def load(
    root: Path,  # noqa: ARG001 (every dataset is called with it; this one needs no folder)
    seed: int,  # noqa: ARG001 (the corpus is one for all runs)
    *,
    context_length: int = 128,
    task: Task = "lm",
    vocab_size: int = 512,
    branching: int = 32,
    count: int = 8192,
    held_out: int = 1024,
    difference: float = 0.02,
) -> TokenTable:
    """Return the corpus.

    Args:
        root: the data folder, unused.
        seed: the run's seed, unused.
        context_length: tokens a sequence (one more is drawn for language modelling).
        task: predict the next token, or which of two chains made the sequence.
        vocab_size: number of tokens.
        branching: successors of a token.
        count: training sequences.
        held_out: validation sequences, and as many for the test.
        difference: share of a token's transitions in which the two chains differ.

    Raises:
        ValueError: an option is out of range.
    """
    given = shape(context_length, vocab_size, task)
    if min(count, held_out) < 1:
        raise ValueError(f"count={count} and held_out={held_out} must be 1 or more sequences")
    chains = make_chains(vocab_size, branching, difference)
    stream = np.random.default_rng([_SEED, 1])
    splits = []
    for size in (count, held_out, held_out):
        if task == "lm":
            tokens = sample(chains[0], size, context_length + 1, stream)
            splits.append(Sequences(torch.from_numpy(tokens)))
            continue
        labels = np.arange(size) % _CLASSES
        tokens = np.empty((size, context_length), dtype=np.int32)
        for label, chain in enumerate(chains):
            mine = labels == label
            tokens[mine] = sample(chain, int(mine.sum()), context_length, stream)
        splits.append(Sequences(torch.from_numpy(tokens), torch.from_numpy(labels)))
    return TokenTable("synthetic_lm", given, *splits)


def prepare(
    root: Path,  # noqa: ARG001 (needs no folder)
    vocab_size: int = 512,
    branching: int = 32,
    difference: float = 0.02,
    **_options: object,
) -> str:
    """Return a line that describes the corpus; nothing has to be made."""
    chain, _ = make_chains(vocab_size, branching, difference)
    return (
        f"synthetic_lm: nothing is needed; entropy rate {chain.entropy_rate:.4f} nats a token (no "
        f"model's loss is lower), unigram entropy {chain.unigram_entropy:.4f}"
    )


def make_chains(vocab_size: int, branching: int, difference: float) -> tuple[Chain, Chain]:
    """Return the chain of language modelling, and the second one of classification.

    Raises:
        ValueError: an option is out of range.
    """
    if not 1 <= branching <= vocab_size:
        raise ValueError(f"branching must be from 1 to vocab_size={vocab_size}, not {branching}")
    if not 0 <= difference <= 1:
        raise ValueError(f"difference must be from 0 to 1, not {difference}")
    stream = np.random.default_rng([_SEED, 0])
    first, other = (_transition(vocab_size, branching, stream) for _ in range(2))
    mixed = (1 - difference) * first + difference * other
    return Chain(first, _stationary(first)), Chain(mixed, _stationary(mixed))


def _transition(vocab_size: int, branching: int, stream: np.random.Generator) -> Array:
    zipf = 1 / np.arange(1, vocab_size + 1)
    weights = zipf[:branching] / zipf[:branching].sum()
    transition = np.zeros((vocab_size, vocab_size))
    for row in transition:
        row[stream.choice(vocab_size, branching, replace=False, p=zipf / zipf.sum())] = weights
    return transition


def _stationary(transition: Array) -> Array:
    """Return the distribution to which the chain's, from the uniform one, tends on average."""
    p = np.full(len(transition), 1 / len(transition))
    for _ in range(10_000):
        after = (p + p @ transition) / 2  # half a step: a chain with a period settles too
        if np.abs(after - p).max() < 1e-16:
            break
        p = after
    return np.asarray(p / p.sum())


def sample(chain: Chain, count: int, length: int, stream: np.random.Generator) -> NDArray[np.int32]:
    """Return ``count`` sequences of the chain, int32 [count, length]."""
    rows = chain.transition.cumsum(axis=1)
    rows[:, -1] = 1
    tokens = np.empty((count, length), dtype=np.int32)
    start = chain.stationary.cumsum()
    start[-1] = 1
    tokens[:, 0] = start.searchsorted(stream.random(count), side="right")
    # All rows in one sorted array, row i shifted by i: a search there is a search in each row.
    stacked = (rows + np.arange(len(rows))[:, None]).ravel()
    for place in range(1, length):
        before = tokens[:, place - 1]
        following = stacked.searchsorted(before + stream.random(count), side="right")
        tokens[:, place] = np.minimum(following - before * len(rows), len(rows) - 1)
    return tokens
