from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import stats

numbers = st.lists(
    st.floats(min_value=-1e6, max_value=1e6, allow_subnormal=False), min_size=1, max_size=12
)


@given(numbers)
@settings(max_examples=60, deadline=None)
def test_mean_and_std_agree_with_the_standard_library(values: list[float]) -> None:
    assert stats.mean(values) == pytest.approx(statistics.fmean(values), rel=1e-12, abs=1e-12)
    if len(values) > 1:
        expected = statistics.stdev(values)
        assert stats.sample_std(values) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(numbers, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_seeds_changes_no_bit(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert stats.mean(values) == stats.mean(shuffled)
    if len(values) > 1:
        assert stats.sample_std(values) == stats.sample_std(shuffled)


def test_std_divides_by_n_minus_one() -> None:
    assert stats.sample_std([1.0, 3.0]) == math.sqrt(2.0)
    assert stats.sample_std(np.array([2.0, 4.0, 6.0])) == 2.0


def test_one_value_has_a_mean_and_no_std() -> None:
    assert stats.mean([0.25]) == 0.25
    assert math.isnan(stats.sample_std([0.25]))


@pytest.mark.parametrize("function", [stats.mean, stats.sample_std])
@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_what_cannot_be_averaged_is_refused(function: object, values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least one number|not finite"):
        function(values)  # type: ignore[operator]


def test_the_interquartile_mean_by_hand_and_against_scipy() -> None:
    from scipy.stats import trim_mean

    assert stats.iqm([1.0, 2.0, 3.0, 100.0]) == 2.5
    assert stats.iqm([1.0, 2.0, 6.0]) == 3.0  # nothing to trim
    for n in range(1, 14):
        values = np.random.default_rng(n).normal(size=n)
        assert stats.iqm(values) == pytest.approx(trim_mean(values, 0.25), rel=1e-12)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_students_interval_against_scipy(level: float) -> None:
    from scipy.stats import t

    values = np.random.default_rng(3).normal(2.0, 0.5, size=5)
    scale = values.std(ddof=1) / math.sqrt(5)
    expected = t.interval(level, 4, loc=values.mean(), scale=scale)
    assert stats.t_interval(values, level) == pytest.approx(expected, rel=1e-12)


def test_one_value_has_no_interval_and_a_level_is_a_probability() -> None:
    assert all(math.isnan(end) for end in stats.t_interval([1.0]))
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match=r"such as 0\.95"):
            stats.t_interval([1.0, 2.0], level)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_students_interval_covers_95_percent(n: int) -> None:
    """Known answer: 4,000 simulated cells; also with accuracies of a small test set."""
    rng = np.random.default_rng(n)
    for truth, samples in (
        (0.0, rng.normal(size=(4000, n))),
        (0.93, rng.binomial(10_000, 0.93, size=(4000, n)) / 10_000),
    ):
        intervals = np.array([stats.t_interval(row) for row in samples])
        covered = np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1]))
        assert 0.93 <= covered <= 0.97
