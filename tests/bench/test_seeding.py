"""Seeds: independent streams that are the same everywhere."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.seeding import derive, generator, noise_seed, random_state, set_random_state

PURPOSES = st.lists(st.one_of(st.integers(0, 999), st.sampled_from(["order", "augment"])))


@given(seed=st.integers(0, 2**62), purpose=PURPOSES)
@settings(max_examples=50, deadline=None)
def test_derive_is_the_upper_63_bits_of_sha256(seed: int, purpose: list[str | int]) -> None:
    text = "/".join([str(seed), *map(str, purpose)])
    digest = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)
    assert derive(seed, *purpose) == digest // 2 < 2**63


def test_known_values_never_change() -> None:
    """Results of earlier runs rest on them."""
    assert derive(0) == int(hashlib.sha256(b"0").hexdigest()[:16], 16) // 2
    assert derive(0, "order", 0) == 3955691223199900983
    assert derive(1, "augment", 7) == 7953414952910999599


def test_another_process_agrees() -> None:
    code = "from bench.seeding import derive; print(derive(3, 'order', 5))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == derive(3, "order", 5)


def test_streams_differ_by_seed_purpose_and_epoch() -> None:
    streams = {
        derive(seed, purpose, epoch)
        for seed in range(20)
        for purpose in ("order", "augment", "init", "validation")
        for epoch in range(20)
    }
    assert len(streams) == 20 * 4 * 20


def test_generator_is_reproducible_on_the_cpu_and_apart_from_the_global_state() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = torch.rand(5, generator=generator(0, "order", 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert generator(0).device == torch.device("cpu")
    torch.manual_seed(99)
    assert torch.equal(first, torch.rand(5, generator=generator(0, "order", 1)))
    assert not torch.equal(first, torch.rand(5, generator=generator(0, "order", 2)))
    assert not torch.equal(first, torch.rand(5, generator=generator(1, "order", 1)))


def test_generator_is_seeded_with_the_derived_seed() -> None:
    assert generator(4, "init").initial_seed() == derive(4, "init")


@pytest.mark.parametrize("seeds", [(0, 1), (1, 10), (12, 21)])
def test_neighbouring_seeds_are_uncorrelated(seeds: tuple[int, int]) -> None:
    pair = torch.stack([torch.randn(10_000, generator=generator(s, "init")) for s in seeds])
    assert torch.corrcoef(pair)[0, 1].abs() < 0.05  # five standard errors


def test_the_random_state_is_continued() -> None:
    device = torch.device("cpu")
    torch.manual_seed(4)
    state = random_state(device)
    drawn = torch.rand(3)
    torch.rand(5)
    set_random_state({**state, "random_cuda": torch.zeros(1)}, device)
    assert torch.equal(torch.rand(3), drawn)
    assert set(state) == {"random"}


def test_noise_is_each_ranks_own_and_a_followers_each_starts() -> None:
    assert noise_seed(3) == noise_seed(3, 0, step=4) == derive(3, "noise")
    assert noise_seed(3, 1, step=4) == derive(3, "noise", 1, 4)
    assert len({noise_seed(3), noise_seed(3, 1), noise_seed(3, 1, step=4), noise_seed(3, 2)}) == 4
