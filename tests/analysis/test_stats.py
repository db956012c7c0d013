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
