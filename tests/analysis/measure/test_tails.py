"""Tail exponents against samples of known tails, and against the package powerlaw."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.measure.tails import clauset


def sample(seed: int, exponent: float, n: int, body: int = 0) -> np.ndarray:
    """Pareto above 1 of this density exponent, and ``body`` values below that are no power law."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.pareto(exponent - 1, n) + 1, rng.uniform(0.2, 1.0, body)])


@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_powerlaw(seed: int) -> None:
    powerlaw = pytest.importorskip("powerlaw")
    values = sample(seed, 3.2, 60, body=20)
    found = clauset(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"verbose": 0, "parameter_ranges": {"alpha": [1.01, 20]}}
        theirs = powerlaw.Fit(values, xmin=found.xmin, **options)
    assert found.exponent == pytest.approx(theirs.power_law.alpha, rel=1e-6)
    assert found.distance == pytest.approx(theirs.power_law.D, rel=1e-6)


@given(seed=st.integers(0, 10**6), exponent=st.floats(1.5, 5), n=st.integers(200, 500))
@settings(max_examples=20, deadline=None)
def test_pure_tails_come_back(seed: int, exponent: float, n: int) -> None:
    found = clauset(sample(seed, exponent, n))
    assert abs(found.exponent - exponent) < 6 * found.stderr
    assert found.stderr == pytest.approx((found.exponent - 1) / np.sqrt(found.n_tail))


@pytest.mark.parametrize("seed", range(6))
def test_the_tail_is_the_best_of_all(seed: int) -> None:
    """Every distinct value tried as xmin with all values from it on, one by one; many are equal."""
    values = np.round(sample(seed, 2.4, 25, body=10), 1)
    best = (np.inf, 0.0, 0.0, 0)
    for xmin in np.unique(values):
        tail = np.sort(values[values >= xmin])
        if len(tail) < 10 or tail[-1] == xmin:
            continue
        exponent = 1 + 1 / np.mean(np.log(tail / xmin))
        below = np.arange(len(tail)) / len(tail)
        distance = np.abs(1 - (tail / xmin) ** (1 - exponent) - below).max()
        best = min(best, (distance, xmin, exponent, len(tail)))
    found = clauset(values)
    assert (found.xmin, found.n_tail) == (best[1], best[3])
    assert (found.distance, found.exponent) == pytest.approx((best[0], best[2]), rel=1e-9)
    assert clauset([*values, np.inf, -1.0]) == found


def test_ten_values_are_a_tail() -> None:
    values = sample(3, 2.5, 10)
    found = clauset(values)
    assert (found.n_tail, found.xmin) == (10, values.min())
    assert found.exponent == pytest.approx(1 + 1 / np.mean(np.log(values / values.min())))


def test_the_body_is_left_out() -> None:
    found = clauset(sample(5, 2.5, 400, body=400))
    assert 0.9 < found.xmin < 2
    assert found.n_tail <= 420
    assert abs(found.exponent - 2.5) < 4 * found.stderr


@given(scale=st.floats(1e-6, 1e6))
@settings(max_examples=10, deadline=None)
def test_scale_changes_xmin_alone(scale: float) -> None:
    values = sample(1, 3.0, 100)
    one, other = clauset(values), clauset(scale * values)
    assert other.exponent == pytest.approx(one.exponent, rel=1e-9)
    assert other.xmin == pytest.approx(scale * one.xmin, rel=1e-9)
    assert other.n_tail == one.n_tail


def test_what_has_no_tail() -> None:
    for values in ([], np.ones(50), np.arange(1.0, 10), [np.nan, -1.0] * 20):
        found = clauset(values)
        assert np.isnan([found.exponent, found.xmin, found.distance, found.stderr]).all()
        assert found.n_tail == 0
    repeated = clauset(np.repeat(sample(2, 3.0, 30), 2))
    assert repeated.n_tail >= 10
    assert repeated.n_tail % 2 == 0  # equal values go together
    mostly = clauset(np.concatenate([np.full(30, 5.0), [1.0]]))  # all of the tail is one value
    assert np.isfinite(mostly.exponent)
