"""How often a section of equal methods has a verdict, and what is shown of methods that differ."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.judge import family
from analysis.judge.verdicts import Rules, judge

from .former_rule import rejected
from .sections import ALTERNATIVES, LIMITS, NULLS, columns

pytestmark = pytest.mark.slow
SECTIONS = {6: 2000, 8: 2000, 10: 2000, 15: 200}


def at_most_5_percent(wrong: int, sections: int) -> bool:
    """Return whether ``wrong`` is no more than chance lets 5 % be, in 99.9 of 100 tests."""
    return wrong <= 0.05 * sections + 3.1 * math.sqrt(sections * 0.05 * 0.95)


@pytest.mark.parametrize("n", SECTIONS)
@pytest.mark.parametrize("noise", NULLS)
def test_a_section_of_equal_methods(noise: str, n: int) -> None:
    rng = np.random.default_rng(n)
    wrong = sum(
        np.nanmin(family.p_values(np.hstack(columns(NULLS[noise](rng, n)))).adjusted) <= 0.05
        for _ in range(SECTIONS[n])
    )
    assert at_most_5_percent(wrong, SECTIONS[n])


@pytest.mark.parametrize("noise", LIMITS)
def test_lopsided_methods_of_unequal_spread_are_promised_nothing(noise: str) -> None:
    """A limit that docs/comparing.md states: where this fails, it says too little."""
    rng = np.random.default_rng(10)
    wrong = sum(
        np.nanmin(family.p_values(np.hstack(columns(LIMITS[noise](rng, 10)))).adjusted) <= 0.05
        for _ in range(300)
    )
    assert wrong > 0.08 * 300


def test_the_former_rule_had_twice_as_many() -> None:
    rng = np.random.default_rng(0)
    wrong = sum(
        any(column.any() for column in rejected(columns(NULLS["normal"](rng, 10))))
        for _ in range(1000)
    )
    assert wrong > 75


def test_methods_that_differ_by_the_margin_are_not_called_equivalent() -> None:
    rng, sections, margin = np.random.default_rng(1), 1000, 0.5
    wrong = 0
    for _ in range(sections):
        data = rng.normal(margin, 0.4, (8, 6)) + rng.normal(0, 0.2, (8, 1))
        judged = judge([dict(enumerate(column)) for column in data.T], Rules(margin=margin))
        wrong += any(one.verdict == "equivalent" for one in judged)
    assert at_most_5_percent(wrong, sections)


@pytest.mark.parametrize("gate", [False, True])
def test_primary_comparisons_leave_the_rate_of_the_section(gate: bool) -> None:
    rng, sections = np.random.default_rng(2), 1000
    wrong = 0
    for _ in range(sections):
        data = rng.normal(size=(8, 9)) - rng.normal(size=(8, 1))
        data[:, 0] += 3.0 * gate  # the primary one is then true, and its gate open
        judged = judge([dict(enumerate(c)) for c in data.T], Rules(), tiers=[0, *[1] * 8])
        wrong += any(one.verdict != "undecided" for one in judged[gate:])
    assert at_most_5_percent(wrong, sections)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_power_grows_with_seeds_and_is_near_that_of_the_former_rule(alternative: str) -> None:
    make, shown = ALTERNATIVES[alternative], {}
    truth = np.hstack(columns(make(np.random.default_rng(0), 20_000).mean(0, keepdims=True)))[0]
    for n in (6, 8, 10):
        rng, new, old = np.random.default_rng(n), [], []
        for _ in range(100):
            section = columns(make(rng, n))
            new.append((family.p_values(np.hstack(section)).adjusted <= 0.05)[abs(truth) > 0.2])
            if n == 10:
                old.append(np.hstack(rejected(section))[abs(truth) > 0.2])
        shown[n] = float(np.mean(new))
        if n == 10:  # of a rule that has twice the false verdicts
            assert shown[n] > np.mean(old) - 0.1
    assert shown[6] < shown[8] < shown[10]
