"""Fits against known answers, scipy and numpy, and the invariances they must have."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import zeta
from scipy.stats import linregress

from analysis import fits

RANK = np.arange(1, 21, dtype=np.float64)
MODEST = settings(max_examples=30, deadline=None)
EXPONENT = st.floats(0.2, 4.0)
SCALE = st.floats(1e-6, 1e6)
SEED = st.integers(0, 2**32 - 1)


def noisy_layer(seed: int, n: int = 20) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (sigma descending, h with some negative values)."""
    rng = np.random.default_rng(seed)
    sigma = np.sort(np.exp(rng.normal(-3, 1.5, n)))[::-1]
    h = sigma**1.7 * np.exp(rng.normal(0, 0.5, n))
    h[rng.random(n) < 0.15] *= -1
    h[:3] = np.abs(h[:3])
    return sigma, h


@MODEST
@given(alpha=EXPONENT, gamma=EXPONENT, c=SCALE, d=SCALE)
def test_exact_power_laws_are_recovered(alpha: float, gamma: float, c: float, d: float) -> None:
    sigma = c * RANK**-gamma
    h = d * sigma**alpha
    found = fits.triangle(sigma, h)
    assert found.alpha == pytest.approx(alpha, rel=1e-9)
    assert found.gamma == pytest.approx(gamma, rel=1e-9)
    assert found.s == pytest.approx(alpha * gamma, rel=1e-9)
    assert found.predicted_s == pytest.approx(alpha * gamma, rel=1e-9)
    assert found.relative_error == pytest.approx(0, abs=1e-9)
    assert found.gamma_fit.log_prefactor == pytest.approx(math.log(c), abs=1e-8)
    assert found.alpha_fit.log_prefactor == pytest.approx(math.log(d), abs=1e-7)
    assert found.alpha_fit.r2 == pytest.approx(1, abs=1e-12)
    assert found.alpha_fit.stderr == pytest.approx(0, abs=1e-9)
    assert found.alpha_fit.n_valid == 20


@MODEST
@given(seed=SEED)
def test_fits_agree_with_scipy(seed: int) -> None:
    sigma, h = noisy_layer(seed)
    keep = h > 0
    ranked = np.sort(h[keep])[::-1]
    rank = np.arange(1, ranked.size + 1)
    for found, reference, sign in (
        (fits.fit_alpha(sigma, h), linregress(np.log(sigma[keep]), np.log(h[keep])), 1),
        (fits.fit_gamma(sigma), linregress(np.log(RANK), np.log(sigma)), -1),
        (fits.fit_s(h), linregress(np.log(rank), np.log(ranked)), -1),
    ):
        assert found.exponent == pytest.approx(sign * reference.slope, rel=1e-9)
        assert found.log_prefactor == pytest.approx(reference.intercept, rel=1e-9, abs=1e-9)
        assert found.r2 == pytest.approx(reference.rvalue**2, abs=1e-9)
        assert found.stderr == pytest.approx(reference.stderr, rel=1e-7)
    assert fits.fit_alpha(sigma, h).n_valid == keep.sum()
    assert fits.fit_gamma(sigma).n_valid == 20


@MODEST
@given(seed=SEED, a=SCALE, b=SCALE)
def test_exponents_do_not_see_the_scale(seed: int, a: float, b: float) -> None:
    sigma, h = noisy_layer(seed)
    one, other = fits.triangle(sigma, h), fits.triangle(a * sigma, b * h)
    for name in ("alpha", "gamma", "s", "error"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), abs=1e-8)
    assert other.alpha_fit.r2 == pytest.approx(one.alpha_fit.r2, abs=1e-9)
    assert fits.best_rank_model(a * sigma) == fits.best_rank_model(sigma)
    assert fits.entropy_rank(b * h) == pytest.approx(fits.entropy_rank(h), rel=1e-9)
    assert fits.participation_ratio(b * h) == pytest.approx(fits.participation_ratio(h), rel=1e-9)
    assert fits.quantile_rank(b * h, 0.5) == fits.quantile_rank(h, 0.5)


def test_alpha_known_answer_by_hand() -> None:
    e = math.e
    fit = fits.fit_alpha([1, e, e**2], [1, e, e**4])  # ln: x = 0, 1, 2; y = 0, 1, 4
    assert fit.exponent == pytest.approx(2)
    assert fit.log_prefactor == pytest.approx(-1 / 3)
    assert fit.r2 == pytest.approx(1 - (2 / 3) / (26 / 3))
    assert fit.stderr == pytest.approx(math.sqrt((2 / 3) / 1 / 2))


def test_alpha_drops_pairs_and_s_reranks() -> None:
    sigma = [8.0, 4.0, 2.0, 0.0, 1.0]
    h = [64.0, -3.0, 4.0, 5.0, 1.0]
    assert fits.fit_alpha(sigma, h) == fits.fit_alpha([8.0, 2.0, 1.0], [64.0, 4.0, 1.0])
    assert fits.fit_alpha(sigma, h).exponent == pytest.approx(2)
    assert fits.fit_s([1.0, -2.0, 0.25, 0.0, 1 / 9]).exponent == pytest.approx(2)
    assert fits.fit_s([0.25, 1 / 9, 1.0]).exponent == pytest.approx(2)  # order is irrelevant


def test_gamma_keeps_the_rank_of_what_is_left() -> None:
    sigma = RANK**-1.5
    sigma[4] = 0.0
    fit = fits.fit_gamma(sigma)
    assert fit.exponent == pytest.approx(1.5, rel=1e-12)
    assert fit.n_valid == 19
    assert fits.rank_models(sigma)["power_law"].coefficients["gamma"] == pytest.approx(1.5)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_values_without_logarithm_are_dropped_and_counted(bad: float) -> None:
    sigma, h = RANK**-1.0, RANK**-2.0
    dirty = h.copy()
    dirty[[3, 7]] = bad
    fit = fits.fit_alpha(sigma, dirty)
    assert fit.exponent == pytest.approx(2, rel=1e-12)
    assert fit.n_valid == 18
    assert fits.fit_alpha(dirty, sigma).n_valid == 18
    assert fits.fit_s(dirty).n_valid == 18
    assert fits.fit_gamma(dirty).exponent == pytest.approx(2, rel=1e-12)
    assert fits.log_correlation(dirty, sigma) == pytest.approx(1)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_points_have_no_exponent(n: int) -> None:
    for fit in (fits.fit_alpha(RANK[:n], RANK[:n]), fits.fit_gamma(RANK[:n]), fits.fit_s(RANK[:n])):
        assert math.isnan(fit.exponent)
        assert math.isnan(fit.r2)
        assert math.isnan(fit.stderr)
        assert fit.n_valid == n
    assert math.isnan(fits.triangle(RANK[:n], RANK[:n]).relative_error)
    assert math.isnan(fits.log_correlation(RANK[:n], RANK[:n]))


def test_two_points_have_an_exponent_without_error_bar() -> None:
    fit = fits.fit_alpha([1.0, 2.0], [1.0, 8.0])
    assert fit.exponent == pytest.approx(3)
    assert math.isnan(fit.stderr)
    assert fit.n_valid == 2


def test_constant_inputs() -> None:
    flat = np.full(10, 3.0)
    curved = fits.fit_alpha(RANK[:10], flat)  # no change to explain: slope 0, R2 undefined
    assert curved.exponent == pytest.approx(0, abs=1e-12)
    assert math.isnan(curved.r2)
    assert math.isnan(fits.fit_alpha(flat, RANK[:10]).exponent)  # no change to explain it with
    assert fits.fit_alpha(flat, RANK[:10]).n_valid == 10
    found = fits.triangle(RANK[:10][::-1], flat)
    assert found.s == pytest.approx(0, abs=1e-12)
    assert math.isnan(fits.log_correlation(flat, RANK[:10]))


def test_lengths_and_shapes_are_checked() -> None:
    for function in (fits.fit_alpha, fits.triangle, fits.log_correlation):
        with pytest.raises(ValueError, match="lengths 3 and 2"):
            function([3.0, 2.0, 1.0], [2.0, 1.0])
    for one in (fits.fit_gamma, fits.fit_s, fits.rank_models, fits.participation_ratio):
        with pytest.raises(ValueError, match=r"one-dimensional, got shape \(2, 2\)"):
            one(np.ones((2, 2)))


def test_float32_is_computed_in_float64() -> None:
    sigma = (RANK**-1.3).astype(np.float32)
    assert fits.fit_gamma(sigma) == fits.fit_gamma(sigma.astype(np.float64))


@MODEST
@given(seed=SEED)
def test_rank_models_agree_with_polyfit_and_the_formulas(seed: int) -> None:
    sigma, _ = noisy_layer(seed)
    t, y, n = np.log(RANK), np.log(sigma), 20
    models = fits.rank_models(sigma)
    for name, x, degree, keys in (
        ("power_law", -t, 1, ("gamma", "log_c")),
        ("exponential", -RANK, 1, ("beta", "log_c")),
        ("lognormal", t, 2, ("quad", "lin", "log_c")),
    ):
        expected = np.polyfit(x, y, degree)
        rss = float(np.sum((y - np.polyval(expected, x)) ** 2))
        fit, p = models[name], degree + 1
        assert [fit.coefficients[key] for key in keys] == pytest.approx(expected, rel=1e-7)
        assert set(fit.coefficients) == set(keys)
        assert fit.rss == pytest.approx(rss, rel=1e-8)
        assert fit.aic == pytest.approx(n * math.log(rss / n) + 2 * p, rel=1e-8)
        assert fit.bic == pytest.approx(n * math.log(rss / n) + p * math.log(n), rel=1e-8)
    best = min(models, key=lambda name: models[name].bic)
    assert fits.best_rank_model(sigma) == best
    assert models["lognormal"].rss <= models["power_law"].rss * (1 + 1e-9)  # it is nested


@MODEST
@given(gamma=EXPONENT, c=SCALE, n=st.integers(5, 100))
def test_exact_laws_win(gamma: float, c: float, n: int) -> None:
    k = np.arange(1, n + 1)
    assert fits.best_rank_model(c * k**-gamma) == "power_law"
    assert fits.best_rank_model(c * np.exp(-gamma * k / 5)) == "exponential"
    assert fits.best_rank_model(c * np.exp(-gamma * np.log(k) ** 2)) == "lognormal"


@pytest.mark.parametrize(("n", "fitted"), [(2, []), (3, ["power_law", "exponential"])])
def test_models_without_a_spare_point_are_not_fitted(n: int, fitted: list[str]) -> None:
    sigma = np.array([5.0, 2.0, 1.5])[:n]
    models = fits.rank_models(sigma)
    assert [name for name, fit in models.items() if not math.isnan(fit.bic)] == fitted
    assert fits.best_rank_model(sigma) in (fitted or [None])
    assert math.isnan(models["lognormal"].coefficients["quad"])


def test_participation_ratio() -> None:
    assert fits.participation_ratio(np.full(7, 0.3)) == pytest.approx(7)
    assert fits.participation_ratio([5.0, 0.0, 0.0]) == pytest.approx(1)
    assert fits.participation_ratio([3.0, 4.0]) == pytest.approx(49 / 25)
    assert fits.participation_ratio([3e-200, 4e-200]) == pytest.approx(49 / 25)
    for empty in ([], [0.0, 0.0], [1.0, math.nan], [1.0, math.inf]):
        assert math.isnan(fits.participation_ratio(empty))


def test_predicted_effective_rank_is_bounded_by_zeta() -> None:
    assert fits.predicted_effective_rank(0.0, 9) == pytest.approx(9)
    assert fits.predicted_effective_rank(2.0, 3) == pytest.approx(
        (49 / 36) ** 2 / (1 + 1 / 16 + 1 / 81)
    )
    assert fits.predicted_effective_rank(400.0, 50) == pytest.approx(1)
    assert fits.predicted_effective_rank(-400.0, 50) == pytest.approx(1, rel=1e-3)  # alpha < 0
    for s in (1.1, 2.0, 5.0):
        assert fits.predicted_effective_rank(s, 200) < fits.zeta_bound(s)
    assert fits.predicted_effective_rank(3.0, 100_000) == pytest.approx(
        fits.zeta_bound(3.0), rel=1e-6
    )
    with pytest.raises(ValueError, match="at least 1"):
        fits.predicted_effective_rank(1.0, 0)


def test_zeta_bound() -> None:
    assert fits.zeta_bound(2.0) == pytest.approx((math.pi**2 / 6) ** 2 / (math.pi**4 / 90))  # 2.5
    assert fits.zeta_bound(1.5) == pytest.approx(zeta(1.5) ** 2 / zeta(3.0))
    assert fits.zeta_bound(1.0) == math.inf
    assert fits.zeta_bound(0.5) == math.inf
    assert math.isnan(fits.zeta_bound(math.nan))


def test_entropy_rank() -> None:
    assert fits.entropy_rank(np.full(6, 0.2)) == pytest.approx(6)
    assert fits.entropy_rank([4.0, 0.0, -1.0]) == pytest.approx(1)
    p = np.array([0.5, 0.25, 0.25])
    assert fits.entropy_rank(8 * p) == pytest.approx(2 ** (1.5))
    assert math.isnan(fits.entropy_rank([-1.0, 0.0]))
    assert fits.entropy_rank([1e300, 1e-300]) == pytest.approx(1)
    assert fits.entropy_rank(np.full(6, 1e308)) == pytest.approx(6)  # whose sum is no number


def test_quantile_rank() -> None:
    h = [1.0, 6.0, -9.0, 3.0]  # shares 0.6, 0.9, 1.0
    assert [fits.quantile_rank(h, q) for q in (0.5, 0.61, 0.9, 0.95, 1.0)] == [1, 2, 2, 3, 3]
    assert fits.quantile_rank([-1.0], 0.95) == 0
    assert fits.quantile_rank(np.full(4, 1e308), 0.75) == 3
    for q in (0.0, 1.5):
        with pytest.raises(ValueError, match="q must be in"):
            fits.quantile_rank(h, q)


@MODEST
@given(seed=SEED)
def test_log_correlation_agrees_with_scipy_and_ignores_powers(seed: int) -> None:
    sigma, h = noisy_layer(seed)
    keep = h > 0
    expected = linregress(np.log(sigma[keep]), np.log(h[keep])).rvalue
    assert fits.log_correlation(h, sigma) == pytest.approx(expected, abs=1e-9)
    assert fits.log_correlation(h, sigma**2) == pytest.approx(expected, abs=1e-9)
