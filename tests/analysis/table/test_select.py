from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.table.select import performance_profile


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
