from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from analysis.table.comparisons import (
    choose_test,
    compare,
    holm,
    paired_t_p,
    seeds_needed,
    sign_flip_p,
    wilcoxon_p,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis.table import comparisons

differences = st.lists(st.integers(-20, 20).map(lambda k: k / 7), min_size=2, max_size=9)


@given(differences)
@settings(max_examples=60, deadline=None)
def test_sign_flips_against_plain_enumeration(values: list[float]) -> None:
    sums = [
        abs(math.fsum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    expected = np.mean([total >= abs(math.fsum(values)) - 1e-9 for total in sums])
    assert sign_flip_p(values) == pytest.approx(expected, abs=1e-12)
    assert sign_flip_p(values) == sign_flip_p([-v for v in reversed(values)])


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_wilcoxon_and_t_against_scipy(n: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.3, size=n)
    exact = scipy_stats.wilcoxon(values, method="exact").pvalue
    assert wilcoxon_p(values) == pytest.approx(exact, rel=1e-9)
    assert paired_t_p(values) == pytest.approx(scipy_stats.ttest_1samp(values, 0).pvalue, rel=1e-9)


def test_wilcoxon_with_ties_and_zeros_is_exact() -> None:
    values = [0.0, 1.0, 1.0, -1.0, 2.0, 3.0]
    exact = scipy_stats.wilcoxon(
        values, zero_method="wilcox", method=scipy_stats.PermutationMethod()
    ).pvalue
    assert wilcoxon_p(values) == pytest.approx(exact, rel=1e-9)
    assert wilcoxon_p([0.0, 0.0]) == 1.0


def test_many_seeds_are_sampled_with_a_seed() -> None:
    values = np.random.default_rng(0).normal(0.25, size=40)
    found = sign_flip_p(values)
    assert found == sign_flip_p(values)
    assert found != sign_flip_p(values, seed=1)
    assert found == pytest.approx(paired_t_p(values), abs=0.01)
    assert sign_flip_p(np.ones(40)) == 1e-5  # never 0: the observed pattern counts


def test_equal_differences_are_not_certainty() -> None:
    """Three seeds, one test image each: Student's t would say p = 0."""
    assert paired_t_p([0.01, 0.01, 0.01]) == 0.25
    assert paired_t_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([1e-17, -1e-17]) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_holm_against_scipys_like(values: list[float]) -> None:
    order = np.argsort(values, kind="stable")
    expected = np.empty(len(values))
    scaled = np.asarray(values)[order] * (len(values) - np.arange(len(values)))
    expected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    assert holm(values) == pytest.approx(expected.tolist(), abs=1e-15)


def test_holm_by_hand_leaves_missing_tests_out() -> None:
    found = holm([0.01, math.nan, 0.04, 0.03])
    assert found[0] == pytest.approx(0.03)
    assert found[2:] == pytest.approx([0.06, 0.06])
    assert math.isnan(found[1])


def test_the_test_depends_on_counts_alone() -> None:
    assert choose_test(5, 1, 0.05, "auto") == "t"  # 2/32 > 0.05: five seeds cannot be enough
    assert choose_test(6, 1, 0.05, "auto") == "sign_flip"
    assert choose_test(6, 2, 0.05, "auto") == "t"
    assert choose_test(5, 1, 0.05, "wilcoxon") == "wilcoxon"
    assert choose_test(1, 1, 0.99, "auto") == "t"


def test_verdicts_follow_direction_and_level() -> None:
    rng = np.random.default_rng(2)
    better, worse = rng.normal(0.05, 0.01, 5), rng.normal(-0.05, 0.01, 5)
    same = rng.normal(0, 0.01, 5)
    found = compare([better, worse, same, [0.1], []])
    assert [c.verdict for c in found] == ["better", "worse", "not shown", "not shown", "not shown"]
    assert [c.n for c in found] == [5, 5, 5, 1, 0]
    assert found[0].interval.low > 0 > found[1].interval.high
    assert math.isnan(found[3].p)
    assert found[3].difference == 0.1
    assert math.isnan(found[4].difference)
    assert found[0].adjusted_p == pytest.approx(
        min(3 * found[0].p, 2 * max(found[0].p, found[1].p)), rel=2
    )
    down = compare([better, worse], higher_is_better=False)
    assert [c.verdict for c in down] == ["worse", "better"]
    strict = compare([better], level=1e-9)
    assert strict[0].verdict == "not shown"


def test_the_correction_counts_every_comparison_of_the_table() -> None:
    borderline = np.array([0.2, 1.0, 0.9, 0.7, 0.6])
    noise = [[1.0, -1.0, 0.5, -0.5, 0.1]] * 30
    assert compare([borderline])[0].verdict == "better"
    assert compare([borderline, *noise])[0].verdict == "not shown"


def test_looks_multiply_p_and_ask_the_exact_test_for_more_seeds() -> None:
    values = np.random.default_rng(5).normal(0.5, 1, 8)
    once, twice = (compare([values, -values], looks=looks) for looks in (1, 2))
    assert [c.test for c in once + twice] == ["sign_flip"] * 4
    assert [c.p for c in twice] == [c.p for c in once]
    assert [c.adjusted_p for c in twice] == [min(1.0, 2 * c.adjusted_p) for c in once]
    assert compare([values, -values], looks=9)[0].test == "t"  # 2 / 2^8 > 0.05 / 18
    with pytest.raises(ValueError, match="looks=0"):
        compare([values], looks=0)


def test_equal_differences_are_judged_by_their_signs_whatever_the_rounding() -> None:
    images = [(355, 354), (356, 355), (353, 352)]
    ((found),) = compare([[a / 360 - b / 360 for a, b in images]])
    assert (found.p, found.verdict) == (0.25, "not shown")


def test_given_floors_replace_those_of_the_problem() -> None:
    values = [0.010, 0.011, 0.012, 0.011, 0.010]
    alone, floored = (compare([values], floors=floors)[0] for floors in (None, [0.05]))
    assert alone.verdict == "better"
    assert floored.p > alone.p
    assert floored.verdict == "not shown"


def test_seeds_added_after_a_look_make_no_more_false_verdicts() -> None:
    rng = np.random.default_rng(6)
    wrong = {1: 0, 3: 0}
    for _ in range(1000):
        values = rng.normal(size=20)
        for looks in wrong:
            parts = [values[:n] for n in (5, 10, 20)]
            wrong[looks] += any(compare([p], looks=looks)[0].verdict != "not shown" for p in parts)
    assert wrong[3] <= 50 < wrong[1]


def _null(noise: str, rng: np.random.Generator, shape: tuple[int, ...], scale: Any = 1.0) -> Any:
    """Return results that differ by chance alone; ``scale`` multiplies their spread."""
    if noise == "359 test images at 99.3 %":  # few distinct accuracies and many ties
        return rng.binomial(359, 0.993, shape) / 359
    if noise == "359 test images at 99.75 %":
        return rng.binomial(359, 0.9975, shape) / 359
    if noise == "10,000 test images at 93 %":
        return rng.binomial(10_000, 0.93, shape) / 10_000
    drawn = {
        "normal": lambda: rng.normal(size=shape),
        "heavy tails": lambda: rng.standard_t(3, size=shape),
        "lognormal": lambda: rng.lognormal(0, 0.5, size=shape),
        "two groups": lambda: rng.integers(0, 2, shape) - 0.5 + rng.normal(0, 0.05, shape),
    }[noise]()
    return drawn * scale


_UNEQUAL = np.linspace(0.2, 5, 8)[:, None]  # the methods' spreads, of the baseline's
NULLS = [
    ("normal", 1.0), ("normal", _UNEQUAL), ("heavy tails", 1.0), ("heavy tails", _UNEQUAL),
    ("lognormal", 1.0), ("359 test images at 99.3 %", 1.0), ("359 test images at 99.75 %", 1.0),
    ("10,000 test images at 93 %", 1.0), ("two groups", 1.0),
]  # fmt: skip
_FEW = [5, pytest.param(3, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.slow)]


@pytest.mark.slow
@pytest.mark.parametrize("n", _FEW)
@pytest.mark.parametrize(
    ("noise", "scale"),
    NULLS,
    ids=[name if isinstance(scale, float) else f"{name}, unequal" for name, scale in NULLS],
)
def test_null_tables_have_at_most_5_percent_false_verdicts(n: int, noise: str, scale: Any) -> None:
    """1,000 tables of 8 methods that equal the baseline: at most 50 have a false verdict."""
    false_tables, false_verdicts = _false(n, noise, scale)
    assert false_tables <= 50
    assert false_verdicts <= 80


@pytest.mark.slow
def test_the_exact_test_holds_where_five_seeds_cannot() -> None:
    """Seeds in two groups, other ones for each method: 1 of 16 tables has all signs alike."""
    assert _false(10, "two groups", _UNEQUAL)[0] <= 50
    assert _false(5, "two groups", _UNEQUAL)[0] > 50  # as docs/comparing.md warns


def _false(n: int, noise: str, scale: Any) -> tuple[int, int]:
    """Return how many of 1,000 null tables have a false verdict, and how many there are."""
    rng = np.random.default_rng(17)
    wrong = [
        sum(
            one.verdict != "not shown"
            for one in compare(list(_null(noise, rng, (8, n), scale) - _null(noise, rng, (n,))))
        )
        for _ in range(1000)
    ]
    return sum(count > 0 for count in wrong), sum(wrong)


def test_a_spread_that_is_small_by_luck_shows_nothing() -> None:
    lucky = [1.0, 1.0, 1.0, 1.0, 1.01]
    others = [[3.0, -2.0, 1.0, -4.0, 2.5], [-3.0, 2.0, 0.5, 4.0, -1.0]]
    assert paired_t_p(lucky) < 1e-8
    assert compare([lucky])[0].verdict == "better"  # nothing beside it tells another spread
    guarded = compare([lucky, *others])[0]
    assert guarded.verdict == "not shown"
    floor = 0.5 * float(np.median([np.std(v, ddof=1) for v in (lucky, *others)]))
    statistic = 1.002 / (floor / math.sqrt(5))
    assert guarded.p == pytest.approx(2 * scipy_stats.t.sf(statistic, 4), rel=1e-12)
    # Spreads of another problem say nothing of this one's.
    assert compare([lucky, *others], problems=["a", "b", "b"])[0].verdict == "better"
    assert compare([lucky, *others], problems=["a", "a", "a"])[0] == guarded


def test_a_floor_never_makes_a_difference_clearer() -> None:
    values = [0.3, 0.5, 0.1, 0.9]
    plain = paired_t_p(values)
    assert paired_t_p(values, 0.1) == plain == paired_t_p(values, 0.0)
    assert paired_t_p(values, 1.0) > plain


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(0)
    n = seeds_needed(std=1.0, difference=1.0, power=0.8)
    found = sum(compare([rng.normal(1, 1, n)], test="t")[0].verdict == "better" for _ in range(999))
    assert 0.77 <= found / 999 <= 0.86


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


def test_bad_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="level=5"):
        compare([[1.0, 2.0]], level=5)


def test_exact_and_sampled_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(0.4, size=12)
    exact = sign_flip_p(values)
    monkeypatch.setattr(comparisons, "_EXACT", 5)
    assert sign_flip_p(values) == pytest.approx(exact, abs=0.005)
