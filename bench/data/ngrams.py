"""Entropies of a stream of tokens: what a model that looks back zero or one token can reach."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
