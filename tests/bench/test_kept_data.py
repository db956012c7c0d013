"""Datasets in memory: the newest ones, within a budget."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import torch

from bench import experiment
from bench.config import RunConfig
from bench.data.digits import load
from bench.kept_data import KeptData, bytes_of


def test_bytes_of_a_dataset() -> None:
    data = load(Path(), 0)
    splits = (data.train, data.val, data.test)
    assert bytes_of(data) == sum(64 * len(split) + 8 * len(split) for split in splits)
    assert bytes_of("something else") == 0


def test_the_oldest_goes_first_and_the_newest_never() -> None:
    kept = KeptData(budget=100)
    loads: list[str] = []

    def get(key: str, size: int) -> torch.Tensor:
        def make() -> torch.Tensor:
            loads.append(key)
            return torch.zeros(size, dtype=torch.uint8)

        found: torch.Tensor = kept.get(key, make)
        return found

    first = get("a", 40)
    assert get("b", 40) is not first
    assert get("a", 40) is first  # used last, so "b" goes now
    get("c", 60)
    assert loads == ["a", "b", "c"]
    assert get("a", 40) is first
    get("b", 40)
    assert loads == ["a", "b", "c", "b"]
    get("huge", 1000)
    get("huge", 1000)
    assert loads.count("huge") == 1
    get("a", 40)
    assert loads[-1] == "a"


def test_runs_share_a_dataset_only_while_it_is_kept(quick: Callable[..., RunConfig]) -> None:
    one, other = quick("seed=1"), quick("seed=2")
    assert experiment.build_data(one) is not experiment.build_data(one)
    with experiment.keeping_data():
        first = experiment.build_data(one)
        assert experiment.build_data(other) is not first
        assert experiment.build_data(one) is first
        gone = weakref.ref(first)
        del first
    gc.collect()
    assert gone() is None
    assert experiment.build_data(one) is not experiment.build_data(one)
