"""The synthetic chains against linear algebra and against their own samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.build import TokenShape
from bench.data import synthetic_lm
from bench.data.synthetic_lm import Chain, load, make_chains, sample
from bench.data.tokens import Sequences

SMALL: dict[str, Any] = {"context_length": 12, "vocab_size": 16, "branching": 4}
NOWHERE = Path("no/such/folder")


def test_the_stationary_distribution_is_the_eigenvector() -> None:
    for chain in make_chains(40, 6, 0.3):
        assert chain.transition.sum(axis=1) == pytest.approx(1)
        values, vectors = np.linalg.eig(chain.transition.T)
        vector = np.real(vectors[:, np.argmax(values.real)])
        np.testing.assert_allclose(chain.stationary, vector / vector.sum(), atol=1e-12)


def test_entropies_of_a_chain_that_can_be_solved_by_hand() -> None:
    p, q = 0.2, 0.4  # 0 -> 1 and 1 -> 0
    chain = Chain(np.array([[1 - p, p], [q, 1 - q]]), np.array([q, p]) / (p + q))

    def binary(x: float) -> float:
        return float(-x * np.log(x) - (1 - x) * np.log(1 - x))

    assert chain.entropy_rate == pytest.approx((q * binary(p) + p * binary(q)) / (p + q))
    assert chain.unigram_entropy == pytest.approx(binary(1 / 3))


def test_each_token_has_its_successors_with_zipfs_weights() -> None:
    chain, _ = make_chains(30, 4, 0)
    weights = np.sort(chain.transition, axis=1)[:, ::-1]
    zipf = 1 / np.arange(1, 5)
    np.testing.assert_allclose(weights[:, :4], np.tile(zipf / zipf.sum(), (30, 1)))
    assert not weights[:, 4:].any()


def test_samples_follow_the_chain() -> None:
    chain, _ = make_chains(16, 4, 0)
    tokens = sample(chain, 4000, 50, np.random.default_rng(0))
    assert tokens.dtype == np.int32 and tokens.shape == (4000, 50)
    pairs = np.zeros((16, 16))
    np.add.at(pairs, (tokens[:, :-1].ravel(), tokens[:, 1:].ravel()), 1)
    assert not pairs[chain.transition == 0].any()
    often = pairs.sum(axis=1) > 2000
    shares = pairs[often] / pairs[often].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, chain.transition[often], atol=0.05)
    for place in (0, 25, 49):  # stationary from the first token on
        share = np.bincount(tokens[:, place], minlength=16) / 4000
        np.testing.assert_allclose(share, chain.stationary, atol=5 * 0.5 / 4000**0.5)


def test_language_modelling() -> None:
    data = load(NOWHERE, 0, count=50, held_out=20, **SMALL)
    assert data.shape == TokenShape(16, 12, 16) == synthetic_lm.shape(**SMALL)
    assert (data.size("train"), data.size("val"), data.size("test")) == (50, 20, 20)
    inputs, targets = next(data.train_batches(0, 0, 5))
    assert inputs.shape == targets.shape == (5, 12)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_classification() -> None:
    options = {**SMALL, "task": "classification"}
    data = load(NOWHERE, 0, count=50, held_out=20, **options)
    assert data.shape == TokenShape(16, 12, 2) == synthetic_lm.shape(**options)
    inputs, labels = next(data.train_batches(0, 0, 50))
    assert inputs.shape == (50, 12) and labels.bincount().tolist() == [25, 25]


def likelihood_ratio_error(chains: tuple[Chain, Chain], split: Sequences) -> float:
    """Return the error of the best possible classifier on ``split``, which knows both chains."""
    assert split.labels is not None
    tokens = split.tokens.cpu().numpy()
    scores = []
    for chain in chains:
        with np.errstate(divide="ignore"):
            logs, first = np.log(chain.transition), np.log(chain.stationary)
        scores.append(first[tokens[:, 0]] + logs[tokens[:, :-1], tokens[:, 1:]].sum(axis=1))
    wrong = (scores[1] > scores[0]) != split.labels.cpu().numpy().astype(bool)
    return math.fsum(wrong) / len(wrong)


def test_the_best_classifier_is_worse_the_more_alike_the_chains_are() -> None:
    errors = []
    for difference in (1.0, 0.3, 0.0):
        options = {**SMALL, "difference": difference}
        data = load(NOWHERE, 0, task="classification", count=10, held_out=2000, **options)
        chains = make_chains(SMALL["vocab_size"], SMALL["branching"], difference)
        errors.append(likelihood_ratio_error(chains, data.test))
    assert errors[0] < 0.01 < errors[1] < 0.3 < errors[2] == 0.5


def test_the_corpus_is_one_for_all_seeds_and_its_splits_differ() -> None:
    first, second = (load(NOWHERE, seed, count=20, held_out=20, **SMALL) for seed in (0, 1))
    assert torch.equal(first.train.tokens, second.train.tokens)
    assert not torch.equal(first.train.tokens, first.val.tokens)
    assert not torch.equal(first.val.tokens, first.test.tokens)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"context_length": 0}, "context_length must be 1"),
        ({"vocab_size": 1}, "vocab_size must be 2"),
        ({"branching": 17}, "branching must be from 1 to vocab_size=16, not 17"),
        ({"branching": 0}, "branching must be"),
        ({"difference": 1.5}, "difference must be from 0 to 1"),
        ({"count": 0}, "count=0 and held_out=1024 must be 1 or more"),
    ],
)
def test_impossible_options_are_refused(option: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load(NOWHERE, 0, **{**SMALL, **option})


def test_prepare_states_the_entropy_rate() -> None:
    said = synthetic_lm.prepare(NOWHERE, **SMALL)
    assert f"entropy rate {make_chains(16, 4, 0)[0].entropy_rate:.4f} nats" in said
