"""Intervals cover the truth as often as they say; quartiles are fits of quarters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis import fits, slopes

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
    h[[1, 5]] = [-1, np.nan]
    sigma[7] = 0
    keep = np.delete(np.arange(20), [1, 5, 7])
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


def test_quarters_are_fits_of_quarters() -> None:
    exponents = np.repeat([1.0, 2.0, 3.0, 0.5], 5)
    sigma = np.exp(-0.1 * RANK)
    found = slopes.alpha_by_quartile(sigma, sigma**exponents)
    assert found == pytest.approx((1.0, 2.0, 3.0, 0.5), rel=1e-9)
    assert np.isnan(slopes.alpha_by_quartile(sigma[:8], sigma[:8])).all()  # two points each
