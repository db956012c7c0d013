"""Intervals cover the truth as often as they say; quartiles are fits of quarters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis import fits
from analysis.measure import exponents as slopes

RANK = np.arange(1, 21)


def layer(seed: int, alpha: float, gamma: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Spectrum and curvature of a power law with log-normal noise on h."""
    rng = np.random.default_rng(seed)
    sigma = RANK ** (-gamma) * np.exp(rng.normal(0, 0.05, 20))
    return sigma, 3 * sigma**alpha * np.exp(rng.normal(0, noise, 20))


@pytest.mark.parametrize(("alpha", "gamma", "noise"), [(2.0, 0.8, 0.3), (1.2, 0.4, 1.0)])
def test_intervals_of_alpha_cover_at_the_stated_rate(
    alpha: float, gamma: float, noise: float
) -> None:
    """95 % by Student's t on the standard error; the bootstrap's covers 93 to 95 %."""
    runs, quantile = 500, stats.t.ppf(0.975, 18)
    by_stderr = by_bootstrap = 0
    for seed in range(runs):
        sigma, h = layer(seed, alpha, gamma, noise)
        fit = fits.fit_alpha(sigma, h)
        by_stderr += abs(fit.exponent - alpha) <= quantile * fit.stderr
        low, high = slopes.alpha_interval(sigma, h)
        by_bootstrap += low <= alpha <= high
    spread = 3 * np.sqrt(0.95 * 0.05 / runs)
    assert abs(by_stderr / runs - 0.95) < spread
    assert 0.95 - 0.02 - spread < by_bootstrap / runs < 0.95 + spread


def by_hand(x: np.ndarray, y: np.ndarray, draws: int) -> list[float]:
    """Davison and Hinkley's interval from the hat matrix and a fit of each resample."""
    design = np.stack([np.ones_like(x), x], axis=1)
    hat = design @ np.linalg.inv(design.T @ design) @ design.T
    fit = stats.linregress(x, y)
    noise = (y - hat @ y) / np.sqrt(1 - np.diag(hat))
    noise -= noise.mean()
    found = []
    for pick in np.random.default_rng(0).integers(0, len(x), size=(draws, len(x))):
        again = stats.linregress(x, hat @ y + noise[pick])
        found.append((again.slope - fit.slope) / again.stderr)
    low, high = np.quantile(found, [0.025, 0.975])
    return [fit.slope - high * fit.stderr, fit.slope - low * fit.stderr]


@pytest.mark.parametrize("points", [5, 20])
def test_the_interval_is_davison_and_hinkleys(points: int) -> None:
    """Uneven x and skewed noise: leverage, centring and the order of the ends all count."""
    rng = np.random.default_rng(11)
    x = np.sort(rng.lognormal(0, 1, points))
    y = 1.5 * x + 0.3 * rng.lognormal(0, 1.5, points)
    assert slopes.studentised(x, y, draws=150) == pytest.approx(by_hand(x, y, 150), rel=1e-9)
    kept = np.exp(x), np.exp(y)
    assert slopes.alpha_interval(*kept) == pytest.approx(slopes.studentised(x, y), rel=1e-9)


def test_intervals_of_gamma_and_s_are_those_of_their_lines() -> None:
    sigma, h = layer(5, 1.5, 0.9, 0.4)
    h[[2, 9]] = [-1.0, np.inf]
    kept = np.sort(np.delete(h, [2, 9]))[::-1]
    for found, rank, values in (
        (slopes.gamma_interval(sigma), RANK, sigma),
        (slopes.s_interval(h), RANK[:18], kept),
    ):
        expected = slopes.studentised(np.log(rank), np.log(values))  # falls: the ends change place
        assert found == pytest.approx((-expected.high, -expected.low), rel=1e-9)


@given(seed=st.integers(0, 10**6), alpha=st.floats(0.5, 3), gamma=st.floats(0.3, 2))
@settings(max_examples=25, deadline=None)
def test_exponents_come_back_within_their_errors(seed: int, alpha: float, gamma: float) -> None:
    sigma, h = layer(seed, alpha, gamma, 0.1)
    fit = fits.fit_alpha(sigma, h)
    assert abs(fit.exponent - alpha) < 6 * fit.stderr
    low, high = slopes.alpha_interval(sigma, h)
    assert low < fit.exponent < high
    assert high - low < 8 * fit.stderr


@given(scale=st.floats(1e-12, 1e12), power=st.sampled_from([0.5, 2.0]))
@settings(max_examples=20, deadline=None)
def test_intervals_scale_with_what_is_fitted(scale: float, power: float) -> None:
    sigma, h = layer(3, 1.7, 0.7, 0.4)
    low, high = slopes.alpha_interval(sigma, h)
    scaled = slopes.alpha_interval(scale * sigma, scale * h)
    assert scaled == pytest.approx((low, high), rel=1e-6)
    stretched = slopes.alpha_interval(sigma**power, h)
    assert stretched == pytest.approx((low / power, high / power), rel=1e-6)


def test_intervals_repeat_and_drop_what_has_no_logarithm() -> None:
    sigma, h = layer(0, 1.5, 1.0, 0.3)
    h[[1, 5, 11]] = [-1, np.nan, np.inf]
    sigma[[7, 13]] = [0, np.inf]
    keep = np.delete(np.arange(20), [1, 5, 7, 11, 13])
    assert slopes.alpha_interval(sigma, h) == slopes.alpha_interval(sigma[keep], h[keep])
    first, second = (slopes.alpha_interval(sigma, h) for _ in range(2))
    assert first == second


def test_gamma_and_s_are_about_their_fits() -> None:
    sigma, h = layer(1, 1.5, 1.0, 0.3)
    for interval, fit in (
        (slopes.gamma_interval(sigma), fits.fit_gamma(sigma)),
        (slopes.s_interval(h), fits.fit_s(h)),
    ):
        assert interval.low < fit.exponent < interval.high
    assert slopes.s_interval(h) == slopes.s_interval(h[::-1])


def test_a_dropped_singular_value_keeps_the_ranks() -> None:
    sigma = RANK**-1.0
    sigma[3] = 0
    assert slopes.gamma_interval(sigma) == pytest.approx((1.0, 1.0), rel=1e-9)


def test_exact_lines_and_too_few_points() -> None:
    assert slopes.alpha_interval(RANK**-1.0, RANK**-2.0) == pytest.approx((2.0, 2.0), rel=1e-9)
    assert np.isnan(slopes.alpha_interval(RANK[:4] ** -1.0, RANK[:4] ** -2.0)).all()
    assert np.isnan(slopes.alpha_interval(np.ones(9), RANK[:9])).all()
    assert np.isnan(slopes.s_interval([])).all()
    for value in (0.2, 0.6, 0.9):  # whose mean is another number by rounding
        assert np.isnan(slopes.alpha_interval(np.full(7, value), RANK[:7])).all()


def test_a_point_that_decides_the_slope_alone_has_no_residual() -> None:
    """Its leverage is 1: the others differ from each other all the same."""
    sigma = np.array([9.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    h = np.array([50.0, 1.0, 2.0, 0.7, 1.4, 1.1])
    low, high = slopes.alpha_interval(sigma, h)
    assert low < fits.fit_alpha(sigma, h).exponent < high
    assert high - low < 2


def test_quarters_are_fits_of_quarters() -> None:
    exponents = np.repeat([1.0, 2.0, 3.0, 0.5], 5)
    sigma = np.exp(-0.1 * RANK)
    found = slopes.alpha_by_quartile(sigma, sigma**exponents)
    assert found == pytest.approx((1.0, 2.0, 3.0, 0.5), rel=1e-9)
    three = slopes.alpha_by_quartile(sigma[:12], sigma[:12] ** 2)
    assert three == pytest.approx((2.0,) * 4, rel=1e-9)
    assert np.isnan(slopes.alpha_by_quartile(sigma[:8], sigma[:8])).all()  # two points each
