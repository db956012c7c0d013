"""Windows of a stream and rows of a table: order, shift, resuming, evaluation.

Entropies against hand-made counts and a chain whose entropy rate is known.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.build import TokenShape
from bench.data import synthetic_lm
from bench.data.base import Data
from bench.data.tokens import Sequences, TokenStream, TokenTable, entropies
from bench.seeding import generator

T = 4


def stream(length: int = 103, context: int = T) -> TokenStream:
    """Tokens are their own place, so that a window says where it begins."""
    place = torch.arange(length, dtype=torch.uint8)
    return TokenStream("toy", 256, context, place, place[:30], place[:23])


def table(labels: bool = False, count: int = 37) -> TokenTable:
    tokens = torch.arange(count * (T + 1), dtype=torch.int32).reshape(count, T + 1)
    classes = torch.arange(count) if labels else None
    train = Sequences(tokens, classes)
    few = Sequences(tokens[:11] + 1, None if classes is None else classes[:11])
    shape = TokenShape(count * (T + 1), T + labels, 50)
    return TokenTable("rows", shape, train, few, few)


def same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b)
        for pair, other in zip(first, second, strict=True)
        for a, b in zip(pair, other, strict=True)
    )


@pytest.mark.parametrize("data", [stream(), table(), table(labels=True)], ids=str)
def test_both_are_datasets(data: Data) -> None:
    assert isinstance(data, Data)
    assert data.device.type == "cpu"
    moved = data.to("meta")
    assert moved.device.type == "meta" and moved.shape == data.shape


def test_shape_and_sizes_of_a_stream() -> None:
    data = stream()
    assert data.shape == TokenShape(256, T, 256)
    assert (data.size("train"), data.size("val"), data.size("test")) == (25, 7, 5)
    assert data.steps_per_epoch(5) == 5 and data.steps_per_epoch(6) == 4
    inputs, targets = next(data.train_batches(0, 0, 5))
    assert inputs.shape == targets.shape == (5, T)
    assert inputs.dtype == targets.dtype == torch.int64


def test_targets_are_the_next_tokens() -> None:
    for data in (stream(), table()):
        for inputs, targets in data.train_batches(0, 0, 5):
            assert torch.equal(targets, inputs + 1)  # tokens count up
            assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_offsets_cover_the_whole_stream_evenly() -> None:
    data = stream(20)
    first = torch.cat(
        [x[:, 0] for epoch in range(1000) for x, _ in data.train_batches(0, epoch, 4)]
    )
    counts = first.bincount(minlength=16)
    assert len(counts) == 16  # 0 to 15: the last window ends with the last token
    assert (counts / len(first) - 1 / 16).abs().max() < 5 * (15 / 256 / len(first)) ** 0.5


def test_offsets_depend_on_seed_epoch_and_number_alone() -> None:
    def epoch(seed: int, number: int, batch: int = 5) -> torch.Tensor:
        return torch.cat([x for x, _ in stream().train_batches(seed, number, batch)])

    torch.manual_seed(0)
    first = epoch(0, 0)
    torch.manual_seed(1)
    assert torch.equal(first, epoch(0, 0))
    assert torch.equal(first[:24], epoch(0, 0, 12))  # not on the batch either
    assert not torch.equal(first, epoch(1, 0)) and not torch.equal(first, epoch(0, 1))
    assert not torch.equal(first[:5], first[5:10])


@given(
    seed=st.integers(0, 2**31),
    number=st.integers(0, 300),
    batch=st.integers(1, 25),
    kind=st.sampled_from([stream, table, lambda: table(labels=True)]),
    data=st.data(),
)
@settings(max_examples=30, deadline=None)
def test_an_epoch_entered_in_the_middle_continues_bit_for_bit(
    seed: int, number: int, batch: int, kind: Any, data: st.DataObject
) -> None:
    tokens = kind()
    steps = tokens.steps_per_epoch(batch)
    start = data.draw(st.integers(0, steps))
    whole = list(tokens.train_batches(seed, number, batch))
    assert len(whole) == steps
    assert same(whole[start:], list(tokens.train_batches(seed, number, batch, start)))


def test_evaluation_goes_through_a_stream_once_in_order() -> None:
    batches = list(stream().eval_batches("val", 3))
    assert [len(x) for x, _ in batches] == [3, 3, 1]
    assert torch.cat([x for x, _ in batches]).flatten().tolist() == list(range(28))
    assert torch.cat([y for _, y in batches]).flatten().tolist() == list(range(1, 29))


def test_an_epoch_of_a_table_is_the_seeded_permutation() -> None:
    data = table(labels=True)
    labels = torch.cat([y for _, y in data.train_batches(3, 2, 5)])
    assert torch.equal(labels, torch.randperm(37, generator=generator(3, "order", 2))[:35])
    for inputs, label in data.train_batches(3, 2, 5):
        assert inputs.dtype == label.dtype == torch.int64
        assert torch.equal(inputs[:, 0], label * (T + 1)) and inputs.shape == (5, T + 1)


def test_evaluation_of_a_table() -> None:
    batches = list(table().eval_batches("test", 4))
    assert [len(x) for x, _ in batches] == [4, 4, 3]
    assert torch.equal(torch.cat([y for _, y in batches]), table().test.tokens[:, 1:].long())


@pytest.mark.parametrize("data", [stream(), table()], ids=str)
def test_bad_arguments_are_refused_at_once(data: Data) -> None:
    most = data.size("train")
    for batch in (0, most + 1):
        with pytest.raises(ValueError, match=rf"{data.name}.*from 1 to {most}"):
            data.train_batches(0, 0, batch)
    with pytest.raises(ValueError, match="start must be from 0 to"):
        data.train_batches(0, 0, 5, 99)
    with pytest.raises(ValueError, match="no split 'tset'"):
        data.eval_batches("tset", 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be 1 or more, not 0"):
        data.eval_batches("val", 0)


def test_a_context_must_fit_every_split() -> None:
    with pytest.raises(ValueError, match=r"context_length=23 .* 23 tokens.* test split of toy"):
        stream(context=23)
    assert stream(context=22).size("test") == 1
    with pytest.raises(ValueError, match="context_length must be 1 or more"):
        stream(context=0)


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
