"""What a choice among trials is worth, against brute force over all draws and against scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.judge.selection import (
    Tuned,
    best_of_k,
    edges,
    frequencies,
    neighbours,
    run_noise,
    selections,
    transfer,
    tuned_interval,
    winner,
)


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_best_of_k_is_that_of_all_draws(values: list[int], replace: bool) -> None:
    found = best_of_k(column(*values), replace=replace)
    for k in range(1, len(values) + 1):
        draws = (
            itertools.product(values, repeat=k) if replace else itertools.permutations(values, k)
        )
        best = np.array([max(draw) for draw in draws])
        assert found.mean[k - 1] == pytest.approx(best.mean())
        for at, level in ((found.low, 0.1), (found.high, 0.9)):
            assert at[k - 1] == np.quantile(best, level, method="inverted_cdf")
    assert (np.diff(found.mean) >= -1e-12).all()
    assert not found.lost.any()


def test_with_replacement_it_is_the_expected_maximum_of_the_empirical_distribution() -> None:
    values = [0.1, 0.5, 0.6, 0.62]
    law = stats.rv_discrete(values=(range(4), [0.25] * 4))
    found = best_of_k(column(*values), replace=True)
    for k in range(1, 5):
        expected = sum(x * (law.cdf(i) ** k - law.cdf(i - 1) ** k) for i, x in enumerate(values))
        assert found.mean[k - 1] == pytest.approx(expected)


def test_draws_of_which_all_diverged_have_no_best() -> None:
    scores = np.array([[0.5, 0.7], [np.nan, 0.9], [0.4, 0.4]])  # a seed lost is a trial lost
    found = best_of_k(scores)
    assert found.lost == pytest.approx([1 / 3, 0, 0])
    assert found.mean == pytest.approx([0.5, (0.6 + 0.6 + 0.4) / 3, 0.6])
    nothing = best_of_k(np.full((2, 1), np.nan))
    assert np.isnan(nothing.mean).all()
    assert nothing.lost.tolist() == [1, 1]
    with pytest.raises(ValueError, match="no trial"):
        best_of_k(np.zeros((0, 1)))


@given(
    st.integers(2, 4).flatmap(
        lambda s: st.lists(
            st.lists(st.integers(0, 6), min_size=s, max_size=s), min_size=1, max_size=4
        )
    )
)
@settings(max_examples=60, deadline=None)
def test_how_often_a_setting_wins_is_counted_over_all_draws_of_seeds(rows: list[list[int]]) -> None:
    scores = np.array(rows, dtype=float)
    k, s = scores.shape
    counts = np.zeros(k)
    for seeds in itertools.product(range(s), repeat=s):
        sums = [math.fsum(scores[i][seed] for seed in seeds) for i in range(k)]
        counts[sums.index(max(sums))] += 1
    assert frequencies(selections(scores), k) == pytest.approx(counts / counts.sum())


def test_with_noise_two_settings_win_as_the_normal_law_says() -> None:
    scores, noise = np.array([[0.90], [0.91]]), 0.01
    share = frequencies(selections(scores, noise=noise, redraws=40_000), 2)[1]
    assert share == pytest.approx(stats.norm.cdf(0.01 / (noise * math.sqrt(2))), abs=0.01)
    three = np.repeat(scores, 3, axis=1)  # means of three vary less
    share = frequencies(selections(three, noise=noise, redraws=40_000), 2)[1]
    assert share == pytest.approx(stats.norm.cdf(0.01 / (noise * math.sqrt(2 / 3))), abs=0.01)


def test_a_diverged_setting_never_wins_and_one_seed_needs_noise() -> None:
    scores = np.array([[0.1, 0.2], [np.nan, 0.9]])
    assert winner(scores) == 0
    assert frequencies(selections(scores), 2).tolist() == [1, 0]
    assert frequencies(selections(scores, noise=5.0), 2).tolist() == [1, 0]
    with pytest.raises(ValueError, match="one tuning seed"):
        selections(column(0.1, 0.2))


def test_the_noise_of_a_run_is_found_beside_what_seeds_share() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(0, 5, 400) + draw.normal(0, 0.3, (4, 400)) + [[0], [1], [2], [9]]
    assert run_noise(values) == pytest.approx(0.3, rel=0.05)
    values[0, :399] = np.nan
    assert run_noise(values) == pytest.approx(0.3, rel=0.05)
    pair = np.array([[1.0, 2.0, 4.0], [0.0, 3.0, 3.0]])
    assert run_noise(pair) == pytest.approx(stats.tstd(pair[0] - pair[1]) / math.sqrt(2))
    assert math.isnan(run_noise(values[:1]))


GRID = np.array([[a, b] for a in (1e-3, 1e-2, 1e-1) for b in (0.1, 0.2, 0.4)])


def test_neighbours_on_a_grid_are_the_points_beside_it() -> None:
    assert neighbours(GRID, 4) == [(1, 7), (3, 5)]
    assert neighbours(GRID, 0) == [(None, 3), (None, 1)]
    assert [edges(GRID, at) for at in (4, 0, 5, 8)] == [[0, 0], [-1, -1], [0, 1], [1, 1]]


def test_neighbours_of_scattered_settings_differ_mostly_in_their_parameter() -> None:
    points = np.array([[1.0, 1.0], [10.0, 1.5], [1.2, 3.0], [0.1, 0.8], [100.0, 10.0]])
    assert neighbours(points, 0) == [(3, 1), (None, 2)]
    assert neighbours(np.array([[0.0], [1.0], [-2.0]]), 0) == [(2, 1)]
    assert neighbours(np.array([[3.0, 1.0], [3.0, 2.0]]), 0) == [(None, None), (None, 1)]
    assert edges(np.array([[3.0, 1.0], [3.0, 2.0]]), 0) == [0, -1]


# -- the interval of a tuned method ---------------------------------------------------------------


def fixed(reports: list[float], s: int = 3) -> Tuned:
    """A method with one setting."""
    return Tuned(np.full((1, s), 0.5), np.array([reports]))


def test_with_one_setting_each_it_covers_as_students_interval() -> None:
    draw = np.random.default_rng(1)
    one, other = draw.normal(1, 0.5, 12), draw.normal(0, 0.5, 12)
    found = tuned_interval(fixed(list(one)), fixed(list(other)))
    t = stats.t.interval(0.95, 11, (one - other).mean(), stats.sem(one - other))
    assert found.approximate == 0
    assert found.interval == pytest.approx(t, abs=0.08 * (t[1] - t[0]))


def test_it_is_the_bootstrap_of_tuning_and_report_seeds_at_once() -> None:
    """Against a plain loop over draws, at the level whose widened tails are the plain ones."""
    draw = np.random.default_rng(2)
    scores = [draw.normal(0, 1, (3, 3)), draw.normal(0, 1, (2, 3))]
    reports = [draw.normal([[0], [1], [2]], 0.3, (3, 8)), draw.normal([[0], [3]], 0.3, (2, 8))]
    made = []
    for _ in range(20_000):
        seeds, rows = draw.integers(0, 3, 3), draw.integers(0, 8, 8)
        means = [
            table[one[:, seeds].mean(axis=1).argmax()][rows].mean()
            for one, table in zip(scores, reports, strict=True)
        ]
        made.append(means[0] - means[1])
    tail = stats.t.ppf(0.9, 7) * math.sqrt(8 / 7)
    expected = np.quantile(made, stats.norm.cdf([-tail, tail]))
    both = [Tuned(one, table) for one, table in zip(scores, reports, strict=True)]
    found = tuned_interval(both[0], both[1], level=0.8)
    assert found.interval == pytest.approx(expected, abs=0.1)
    assert found.approximate == 0


def test_chance_in_the_choice_widens_it() -> None:
    draw = np.random.default_rng(3)
    reports = draw.normal([[0.0], [1.0]], 0.1, (2, 10))
    baseline = fixed([0.0] * 10)
    sure = tuned_interval(Tuned(np.array([[0.0] * 3, [1.0] * 3]), reports), baseline)
    close = tuned_interval(Tuned(np.array([[0.0, 0.2, 0.1], [0.1] * 3]), reports), baseline)
    width = [one.interval.high - one.interval.low for one in (sure, close)]
    assert width[1] > 3 * width[0]


def test_a_setting_that_was_never_reported_takes_its_difference_from_its_scores() -> None:
    reports = np.array([[0.9, 0.92, 0.91], [np.nan] * 3])
    one = Tuned(np.array([[0.5, 0.6, 0.7], [0.6, 0.5, 0.4]]), reports)
    assert one.completed()[1] == pytest.approx(reports[0] - 0.1)
    found = tuned_interval(one, fixed([0.8, 0.8, 0.8]))
    chosen = frequencies(selections(one.scores), 2)[1]
    assert found.approximate == pytest.approx(chosen, abs=0.02)
    assert math.isfinite(found.interval.low)
    losses = Tuned(one.scores, -reports, np.array([[-0.3] * 3, [-0.1, -0.2, -0.3]]))
    assert losses.completed()[1] == pytest.approx(-reports[0] + 0.1)  # it has the better loss
    unknown = Tuned(one.scores, reports, np.full((2, 3), np.nan))
    assert math.isnan(tuned_interval(unknown, fixed([0.8] * 3)).interval.low)
    lost = Tuned(np.array([[0.5, 0.6, 0.7], [0.6, np.nan, 0.4]]), reports)  # it is never selected
    assert math.isfinite(tuned_interval(lost, fixed([0.8] * 3)).interval.low)


def test_what_is_impossible_is_nan() -> None:
    single = Tuned(column(0.1, 0.2), np.ones((2, 4)))
    assert math.isnan(tuned_interval(single, single).interval.low)
    assert math.isfinite(tuned_interval(single, single, noise=0.1).interval.low)
    assert math.isnan(tuned_interval(fixed([1.0]), fixed([0.0])).interval.high)
    lacking = fixed([1.0, math.nan, 2.0])
    apart = fixed([0.0, 1.0, math.nan])
    assert math.isnan(tuned_interval(lacking, apart).interval.high)  # one seed in common
    with pytest.raises(ValueError, match="different seeds"):
        tuned_interval(fixed([1.0, 2.0]), fixed([1.0]))
    with pytest.raises(ValueError, match="numbers of seeds"):
        tuned_interval(fixed([1.0, 2.0], s=3), fixed([1.0, 2.0], s=2))
    with pytest.raises(ValueError, match="level"):
        tuned_interval(fixed([1.0, 2.0]), fixed([1.0, 2.0]), level=95)


def test_the_same_arguments_give_the_same_interval() -> None:
    one = Tuned(np.random.default_rng(4).normal(0, 1, (4, 7)), np.ones((4, 5)))
    assert tuned_interval(one, one, noise=0.3) == tuned_interval(one, one, noise=0.3)


def test_the_error_of_a_transfer() -> None:
    found = transfer(np.array([0.5, 0.7, np.nan]), np.array([0.8, 0.75, 0.81]))
    assert (found.short, found.long) == (1, 2)
    assert found.loss == pytest.approx(0.06)
    assert math.isnan(transfer(np.array([0.5, 0.7]), np.array([0.8, np.nan])).loss)
    assert transfer(np.array([0.5, 0.7]), np.array([0.6, 0.8])).loss == 0
    with pytest.raises(ValueError, match="no setting"):
        transfer(np.array([np.nan]), np.array([1.0]))


@pytest.mark.parametrize("s", [1, 3])
def test_it_covers_what_tuning_gives_in_the_mean_where_a_fixed_settings_interval_does_not(
    s: int,
) -> None:
    """Twelve settings on a parabola, 15 report seeds, the noise of a run on an H200 (0.18)."""
    draw, noise, n, made = np.random.default_rng(5), 0.18, 15, 150
    x = np.linspace(-1, 1, 12)
    truths = (94 - 1.5 * (x - 0.1) ** 2, 93.8 - 1.5 * (x + 0.2) ** 2)

    def trials(truth: np.ndarray) -> np.ndarray:
        return truth[:, None] + noise * draw.standard_normal((len(truth), s))

    expected = [np.mean([truth[winner(trials(truth))] for _ in range(2000)]) for truth in truths]
    goal = expected[0] - expected[1]
    covered = covered_fixed = 0
    for _ in range(made):
        both = []
        for truth in truths:
            scores = trials(truth)
            reports = np.full((len(x), n), np.nan)
            reports[winner(scores)] = truth[winner(scores)] + noise * draw.standard_normal(n)
            both.append(Tuned(scores, reports))
        low, high = tuned_interval(
            both[0], both[1], noise=noise if s == 1 else None, resamples=999
        ).interval
        apart = both[0].reports[winner(both[0].scores)] - both[1].reports[winner(both[1].scores)]
        fixed_low, fixed_high = stats.t.interval(0.95, n - 1, apart.mean(), stats.sem(apart))
        covered += low <= goal <= high
        covered_fixed += fixed_low <= goal <= fixed_high
    assert covered / made >= 0.90  # 0.93 to 0.99 of 400
    assert covered_fixed / made <= 0.91  # 0.76 to 0.88 of 400
