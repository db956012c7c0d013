from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis import stats
from analysis.stats import FEWEST, bca_interval, iqms, means

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


SKEWED = np.random.default_rng(5).lognormal(size=25)


@pytest.mark.parametrize(
    ("statistic", "reference"),
    [(means, np.mean), (iqms, lambda a, axis: scipy_stats.trim_mean(a, 0.25, axis=axis))],
)
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_against_scipy(statistic: object, reference: object, level: float) -> None:
    # The same widening of the tails as ours, expressed as another level of the plain method.
    tail = scipy_stats.t.ppf((1 + level) / 2, 24) * math.sqrt(25 / 24)
    expected = scipy_stats.bootstrap(
        (SKEWED,), reference, confidence_level=2 * scipy_stats.norm.cdf(tail) - 1,
        n_resamples=20_000, vectorized=True, method="BCa", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    found = bca_interval(SKEWED, statistic, level=level, resamples=20_000)  # type: ignore[arg-type]
    width = expected.high - expected.low
    assert found == pytest.approx(tuple(expected), abs=0.03 * width)
    # Corrected for skew: not the plain percentiles, and not symmetric.
    centre = float(reference(SKEWED, axis=0))  # type: ignore[operator]
    assert found.high - centre > 1.1 * (centre - found.low)


def by_hand(values: np.ndarray, statistic: object, level: float, draws: int) -> list[float]:
    """Efron's BCa with Hesterberg's tails, one resample at a time."""
    n, kept = len(values), np.sort(values)
    picks = np.random.default_rng(0).integers(0, n, (draws, n))
    found = [statistic(kept[pick]) for pick in picks]  # type: ignore[operator]
    below = scipy_stats.percentileofscore(found, statistic(kept), kind="mean") / 100  # type: ignore
    bias = scipy_stats.norm.ppf(below)
    without = np.array([statistic(np.delete(kept, i)) for i in range(n)])  # type: ignore[operator]
    skew = ((without.mean() - without) ** 3).sum()
    a = skew / 6 / ((without - without.mean()) ** 2).sum() ** 1.5
    tail = scipy_stats.t(n - 1).ppf((1 + level) / 2) * math.sqrt(n / (n - 1))
    ends = [scipy_stats.norm.cdf(bias + (bias + z) / (1 - a * (bias + z))) for z in (-tail, tail)]
    return [float(np.quantile(found, end)) for end in ends]


@pytest.mark.parametrize("values", [SKEWED[:10], np.floor(3 * SKEWED[:12])], ids=["reals", "ties"])
@pytest.mark.parametrize(("ours", "plain"), [(means, stats.mean), (iqms, stats.iqm)])
def test_against_the_formula(values: np.ndarray, ours: object, plain: object) -> None:
    found = bca_interval(values, ours, level=0.9, resamples=300)  # type: ignore[arg-type]
    assert found == pytest.approx(by_hand(values, plain, 0.9, 300), rel=1e-9)


def test_the_seed_decides_every_bit_and_the_order_none() -> None:
    first = bca_interval(SKEWED, seed=3)
    assert bca_interval(SKEWED[::-1], seed=3) == first
    assert bca_interval(SKEWED, seed=4) != first  # the seed is not ignored


def test_the_vectorised_statistics_are_those_of_a_cell() -> None:
    samples = np.random.default_rng(0).normal(size=(6, 9))
    for row, mean, iqm in zip(samples, means(samples), iqms(samples), strict=True):
        assert mean == pytest.approx(stats.mean(row), rel=1e-12)
        assert iqm == pytest.approx(stats.iqm(row), rel=1e-12)


def test_too_little_to_resample() -> None:
    assert all(math.isnan(end) for end in bca_interval([1.0]))
    assert bca_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(ValueError, match="leave that run out"):
        bca_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="level=2"):
        bca_interval([1.0, 2.0], level=2)


def test_an_extreme_statistic_stays_finite() -> None:
    """Nine equal values and an outlier: most resamples lie on one side of the point."""
    found = bca_interval([0.0] * 9 + [1.0])
    assert 0 <= found.low < 0.1 < found.high <= 1
    trimmed = bca_interval([0.0] * 9 + [1.0], iqms)  # leaving any one out changes nothing
    assert trimmed.low == 0 <= trimmed.high <= 1
    for seed in range(5):  # all of the resamples may lie on one side
        low, high = bca_interval(SKEWED, resamples=1, seed=seed)
        assert low == high > 0


@pytest.mark.slow
@pytest.mark.parametrize("statistic", [means, iqms])
@pytest.mark.parametrize("n", [FEWEST, 25])
def test_coverage_is_95_percent_from_the_fewest_values_on(statistic: object, n: int) -> None:
    samples = np.random.default_rng(7).normal(size=(3000, n))
    found = [bca_interval(row, statistic, resamples=999) for row in samples]  # type: ignore[arg-type]
    covered = np.mean([low <= 0 <= high for low, high in found])
    assert 0.93 <= covered <= 0.97
