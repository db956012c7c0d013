from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis.judge.verdicts import Comparison, Rules, judge, paired, without_luck
from bench.registration import SHARES

RULES = Rules()


def by_seed(values: Any) -> dict[int, float]:
    return dict(enumerate(map(float, values)))


def verdicts(comparisons: Any, rules: Rules = RULES, **how: Any) -> list[str]:
    return [one.verdict for one in judge([by_seed(v) for v in comparisons], rules, **how)]


def test_verdicts_follow_direction_and_level() -> None:
    rng = np.random.default_rng(2)
    better, worse = rng.normal(0.05, 0.01, 8), rng.normal(-0.05, 0.01, 8)
    same = rng.normal(0, 0.01, 8)
    judged = judge([by_seed(v) for v in (better, worse, same, [0.1], [])], RULES)
    assert [one.verdict for one in judged] == ["better", "worse", *["undecided"] * 3]
    assert [one.n for one in judged] == [8, 8, 8, 1, 0]
    interval = scipy_stats.ttest_1samp(better, 0).confidence_interval()
    assert judged[0].interval == pytest.approx(tuple(interval))
    assert judged[3].difference == 0.1
    assert math.isnan(judged[3].adjusted_p)
    assert math.isnan(judged[4].difference)
    assert verdicts([better, worse], higher_is_better=False) == ["worse", "better"]
    assert verdicts([better], Rules(level=1e-3)) == ["undecided"]


def test_five_seeds_can_show_nothing_and_six_can() -> None:
    assert verdicts([[1.0, 1.1, 1.2, 0.9, 1.0]]) == ["undecided"]
    assert verdicts([[1.0, 1.1, 1.2, 0.9, 1.0, 1.1]]) == ["better"]


def test_interim_analyses_multiply_p() -> None:
    values = np.random.default_rng(5).normal(0.5, 1, 8)
    once, thrice = (judge([by_seed(values)], Rules(looks=k))[0] for k in (1, 3))
    assert thrice.p == once.p
    assert thrice.adjusted_p == min(1.0, 3 * once.adjusted_p)


def test_equivalent_needs_a_margin_and_both_sides() -> None:
    values = np.random.default_rng(0).normal(0.0, 0.01, 10)
    assert verdicts([values]) == ["undecided"]
    assert verdicts([values], Rules(margin=0.1)) == ["equivalent"]
    assert verdicts([values], Rules(margin=0.001)) == ["undecided"]
    assert verdicts([values + 0.2], Rules(margin=0.1)) == ["better"]
    # Certainly different, by less than matters.
    (small,) = judge([by_seed(values / 10 + 0.02)], Rules(margin=0.1))
    assert (small.verdict, small.adjusted_p <= 0.05) == ("equivalent", True)
    assert small.decisive_p == small.equivalence_p


def test_equivalence_against_two_one_sided_permutation_tests() -> None:
    """Of one comparison the p is at least that of either side, tested by scipy."""
    values, margin = np.random.default_rng(4).normal(0.02, 0.05, 8), 0.06
    sides = [
        scipy_stats.permutation_test(
            (values + shift,), np.mean, permutation_type="samples", n_resamples=math.inf
        ).pvalue
        for shift in (margin, -margin)
    ]
    (one,) = judge([by_seed(values)], Rules(margin=margin))
    assert one.equivalence_p >= max(sides) - 1e-12
    assert one.equivalence_p <= 3 * max(sides)  # three statements in the family


@given(st.integers(6, 11), st.integers(1, 4), st.floats(-0.4, 0.4), st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_a_further_seed_at_the_mean_takes_no_verdict_away(
    n: int, k: int, effect: float, seed: int
) -> None:
    data = np.random.default_rng(seed).normal(effect, 0.2, (n, k))
    more = np.vstack([data, data.mean(axis=0)])
    for tiers in ([], [0, *[1] * (k - 1)]):
        for margin in (None, 0.3):
            rules = Rules(margin=margin)
            before = verdicts(data.T, rules, tiers=tiers)
            after = verdicts(more.T, rules, tiers=tiers)
            for old, new in zip(before, after, strict=True):
                assert old in ("undecided", new) or new == "equivalent"


def test_families_share_the_level_and_pass_it_on() -> None:
    rng = np.random.default_rng(1)
    clear, noise = rng.normal(1, 0.1, (20, 10)), rng.normal(0, 1, (30, 10))
    borderline = np.array([1.0, 1.2, 0.8, 0.9, 1.1, 0.7, -0.9, 0.3, 0.9, -0.2])
    assert verdicts([borderline, *noise])[0] == "undecided"
    assert verdicts([borderline, *noise], tiers=[0, *[2] * 30])[0] == "better"
    every = [by_seed(values) for values in (*clear, noise[0])]
    (alone,) = {one.adjusted_p for one in judge(every[:20], RULES)}
    # The primary comparison is undecided: the secondary ones keep their own part of the level.
    kept = judge(every, RULES, tiers=[*[1] * 20, 0])
    assert {one.adjusted_p for one in kept[:20]} == {alone / SHARES[1]}
    (shown,) = judge([by_seed(borderline)], RULES)
    passed = judge([*every[:20], by_seed(borderline)], RULES, tiers=[*[1] * 20, 0])
    assert passed[20].adjusted_p == pytest.approx(shown.p / SHARES[0])
    expected = max(alone / (SHARES[0] + SHARES[1]), shown.p / SHARES[0])
    assert {one.adjusted_p for one in passed[:20]} == {min(expected, alone / SHARES[1])}
    closed = judge([*every[:20], by_seed(borderline)], RULES, tiers=[*[1] * 20, 0], closed={0})
    assert {one.adjusted_p for one in closed[:20]} == {alone / SHARES[1]}


def test_rows_that_lost_seeds_are_not_flattered() -> None:
    row = {0: 0.9, 1: None, 2: 0.9}
    other = {0: 0.8, 1: 0.8, 2: 0.8, 3: 0.7}
    assert paired(row, other) == {0: pytest.approx(0.1), 2: pytest.approx(0.1)}
    nan = (math.nan, math.nan)
    for verdict, kept in (("better", False), ("equivalent", False), ("worse", True)):
        one = Comparison(0.1, nan, 2, 0.01, 0.01, verdict)  # type: ignore[arg-type]
        assert (without_luck(one, row, other).verdict == verdict) is kept
        assert without_luck(one, other, other).verdict == verdict
    worse = Comparison(-0.1, nan, 2, 0.01, 0.01, "worse")  # type: ignore[arg-type]
    assert without_luck(worse, other, row).verdict == "undecided"


def test_shifting_both_rows_changes_nothing() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.normal(0.5, 1, 9), rng.normal(0, 1, 9)
    plain = judge([paired(by_seed(a), by_seed(b))], RULES)[0]
    moved = judge([paired(by_seed(a + 8.0), by_seed(b + 8.0))], RULES)[0]
    assert moved.adjusted_p == plain.adjusted_p
    assert moved.difference == pytest.approx(plain.difference)


@pytest.mark.parametrize(
    ("rules", "problem"),
    [({"level": 5}, "level=5"), ({"looks": 0}, "looks=0"), ({"margin": -1.0}, "margin=-1")],
)
def test_bad_rules_are_refused(rules: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Rules(**rules)
