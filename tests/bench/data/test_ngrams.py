"""Entropies against hand-made counts and a chain whose entropy rate is known."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data import synthetic_lm
from bench.data.ngrams import entropies


@given(st.lists(st.integers(0, 6), min_size=2, max_size=60))
@settings(max_examples=40, deadline=None)
def test_against_a_count_by_hand(tokens: list[int]) -> None:
    found = entropies(torch.tensor(tokens, dtype=torch.uint8), 7)
    single, first, pairs = Counter(tokens), Counter(tokens[:-1]), Counter(pairwise(tokens))
    n = len(tokens)
    unigram = -sum(k / n * math.log(k / n) for k in single.values())
    bigram = -sum(k / (n - 1) * math.log(k / first[a]) for (a, _), k in pairs.items())
    assert found.unigram == pytest.approx(unigram, abs=1e-12)
    assert found.bigram == pytest.approx(bigram, abs=1e-12)


def test_a_deterministic_stream_has_no_bigram_entropy() -> None:
    found = entropies(torch.arange(256).repeat(3).to(torch.uint8), 256)
    assert found.unigram == pytest.approx(math.log(256))
    assert found.bigram == pytest.approx(0, abs=1e-12)


def test_the_bigram_entropy_of_a_markov_chain_is_its_entropy_rate() -> None:
    options = {"vocab_size": 20, "branching": 5}
    chain, _ = synthetic_lm.make_chains(**options, difference=0)
    data = synthetic_lm.load(Path(), 0, count=2000, context_length=100, **options)
    rows = data.train.tokens  # a seam between two sequences is one pair of a hundred
    found = entropies(rows.flatten(), 20)
    assert found.unigram == pytest.approx(chain.unigram_entropy, abs=0.01)
    assert found.bigram == pytest.approx(chain.entropy_rate, abs=0.03)
