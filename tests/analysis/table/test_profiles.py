from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.table.profiles import TargetTime, performance_profile, time_to_target


def test_a_profile_by_hand() -> None:
    costs = [[1.0, 2.0, math.inf, math.nan], [2.0, 1.0, 3.0, math.inf]]
    found = performance_profile(costs, [1.0, 1.99, 2.0, 1e9])
    assert found.tolist() == [[0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.75, 0.75]]


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_profiles_rise_and_someone_is_best(methods: int, problems: int, seed: int) -> None:
    costs = np.random.default_rng(seed).lognormal(size=(methods, problems))
    found = performance_profile(costs, [1.0, 2.0, 4.0, 1e12])
    assert (np.diff(found, axis=1) >= 0).all()
    assert found[:, 0].sum() >= 1 - 1e-12  # each problem has a best method
    assert (found[:, -1] == 1).all()


@pytest.mark.parametrize("costs", [[1.0, 2.0], [[]], [[1.0, 0.0]], [[-1.0]]])
def test_costs_that_have_no_profile_are_refused(costs: list[object]) -> None:
    with pytest.raises(ValueError, match="costs must be"):
        performance_profile(costs, [1.0])


def test_the_median_time_without_misses_is_the_lower_median() -> None:
    assert time_to_target([3.0, 1.0, 2.0], [9.0] * 3) == TargetTime(2.0, 3, 3)
    assert time_to_target([1.0, 2.0, 3.0, 4.0], [9.0] * 4) == TargetTime(2.0, 4, 4)


@pytest.mark.parametrize("miss", [None, math.nan, math.inf])
def test_a_miss_is_censored_not_left_out(miss: float | None) -> None:
    """Without the misses the median would be 1.0: a flattering number."""
    assert time_to_target([1.0, 1.0, 5.0, miss, miss], [10.0] * 5) == TargetTime(5.0, 3, 5)
    assert time_to_target([1.0, miss, miss], [10.0] * 3) == TargetTime(math.inf, 1, 3)
    # Censored early, it stands for runs that go on: S = 1 - 1/2 at 4, after one left at 2.
    assert time_to_target([miss, 4.0, 6.0], [2.0, 9.0, 9.0]) == TargetTime(4.0, 2, 3)
    # A miss censored at the very time at which another got there was still on its way.
    assert time_to_target([miss, 2.0], [2.0, 9.0]) == TargetTime(2.0, 1, 2)


def test_kaplan_meier_against_scipy() -> None:
    from scipy import stats as scipy_stats

    rng = np.random.default_rng(0)
    for _ in range(30):
        times, limit = rng.exponential(size=9), rng.exponential(1.5, size=9)
        missed = times > limit
        data = scipy_stats.CensoredData.right_censored(np.minimum(times, limit), missed)
        reference = scipy_stats.ecdf(data).sf
        below = reference.quantiles[reference.probabilities <= 0.5 + 1e-12]
        given_times = [None if m else float(t) for t, m in zip(times, missed, strict=True)]
        found = time_to_target(given_times, limit.tolist())
        assert found.median == (below[0] if len(below) else math.inf)
        assert found.reached == 9 - missed.sum()


def test_runs_that_say_too_little_are_refused() -> None:
    with pytest.raises(ValueError, match="each run: 0, 0"):
        time_to_target([], [])
    with pytest.raises(ValueError, match="each run: 1, 2"):
        time_to_target([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="the time that it spent"):
        time_to_target([None], [math.nan])
