from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.judge.power import seeds_needed


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(0)
    n = seeds_needed(std=1.0, difference=1.0, power=0.8)
    found = scipy_stats.ttest_1samp(rng.normal(1, 1, (999, n)), 0, axis=1).pvalue <= 0.05
    assert 0.77 <= np.mean(found) <= 0.86


@pytest.mark.parametrize(
    ("std", "difference", "expected"), [(1.0, 1.0, 10), (1.0, 0.5, 34), (1.0, 2.0, 5)]
)
def test_seeds_needed_against_published_tables(
    std: float, difference: float, expected: int
) -> None:
    """Paired t, two-sided 5 %, power 80 % (Cohen 1988; G*Power gives the same)."""
    assert seeds_needed(std, difference) == expected
    assert seeds_needed(3 * std, -3 * difference) == expected


def test_seeds_needed_at_the_ends() -> None:
    assert seeds_needed(0.0, 1.0) == 2
    assert seeds_needed(1.0, 1e4) == 2
    assert seeds_needed(1.0, 1.0, level=0.01) > seeds_needed(1.0, 1.0)
    for std, difference in ((1.0, 0.0), (math.nan, 1.0), (1.0, 1e-9)):
        with pytest.raises(ValueError, match=r"cannot resolve|more than 10000 seeds"):
            seeds_needed(std, difference)
