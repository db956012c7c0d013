from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from optimizers.math.fits import (
    CHEAP_DEGREES,
    chebyshev_coefficients,
    fit_poles,
    polynomial_degree,
    polynomial_error,
    polynomial_fit,
    rational_fit,
    rational_poles,
    transfer_peak,
)

# Dense at 0, where fits for small alpha oscillate in the logarithm of sigma.
SIGMA = np.concatenate((np.logspace(-10, 0, 10_011), np.linspace(1e-4, 1, 10_011)))
ALPHAS = [0.5, 1.0, 1.7, 2.0, 2.5, 3.1, 5.0]
DAMPINGS = [1.0, 0.1, 0.01, 1e-4]


def transfer(sigma: np.ndarray, alpha: float, damping: float) -> np.ndarray:
    return sigma / (sigma**alpha + damping)


def fit_residual(alpha: float, damping: float, degree: int, sigma: np.ndarray) -> np.ndarray:
    """Error of the fit by numpy's own Chebyshev evaluation, over max T from the same grid."""
    p = chebyshev.chebval(2 * sigma**2 - 1, chebyshev_coefficients(alpha, damping, degree))
    exact = transfer(SIGMA, alpha, damping)
    return (sigma * p - transfer(sigma, alpha, damping)) / exact.max()


@pytest.mark.parametrize("degree", [1, 9, 25, 64])
@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_stated_error_holds_everywhere_and_is_reached(
    alpha: float, damping: float, degree: int
) -> None:
    error = polynomial_error(alpha, damping, degree)
    actual = np.abs(fit_residual(alpha, damping, degree, SIGMA)).max()
    assert actual <= error
    assert error <= 1.003 * actual + 2e-12


@pytest.mark.parametrize("degree", [1, 2, 4, 25])
@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_no_polynomial_of_that_degree_is_better(alpha: float, damping: float, degree: int) -> None:
    """Vallee-Poussin: degree + 2 alternating errors of at least E bound the best error by E."""
    error = polynomial_error(alpha, damping, degree)
    if error < 1e-11:
        pytest.skip("at the level of rounding")
    sigma = np.sort(SIGMA)
    residual = fit_residual(alpha, damping, degree, sigma)
    signs = [np.sign(value) for value in residual if abs(value) > 0.997 * error]
    changes = 1 + sum(a != b for a, b in itertools.pairwise(signs))
    assert changes >= degree + 2


@given(
    alpha=st.floats(0.5, 5.0),
    log_damping=st.floats(-4.0, 0.0),
    degree=st.sampled_from(CHEAP_DEGREES),
)
@settings(max_examples=40, deadline=None)
def test_any_alpha_and_damping_in_range(alpha: float, log_damping: float, degree: int) -> None:
    damping = 10.0**log_damping
    fit = polynomial_fit(alpha, damping, degree)
    residual = np.abs(fit_residual(alpha, damping, degree, SIGMA[::3]))
    assert residual.max() <= fit.error <= 1
    assert len(fit.coefficients) == degree + 1
    # What low precision has to add up stays near 1, whatever f(0) = 1 / damping is.
    assert sum(abs(value) for value in fit.coefficients) < 1.3
    p = chebyshev.chebval(2 * SIGMA**2 - 1, fit.coefficients)
    assert np.abs(p).max() <= 1 + 1e-4
    assert max(np.abs(p).max(), abs(chebyshev.chebval(-1.0, fit.coefficients))) > 1 - 1e-4
    assert fit.scale <= 1.2 / damping


def test_known_errors_and_degrees() -> None:
    assert polynomial_error(2.0, 0.1, 9) == pytest.approx(0.00246, rel=0.01)
    assert polynomial_error(2.0, 0.01, 25) == pytest.approx(0.0061, rel=0.01)
    degrees = {(2.0, 0.1): 9, (2.0, 0.03): 16, (2.0, 0.01): 25, (1.0, 1.0): 4, (3.0, 0.01): 16}
    for (alpha, damping), degree in degrees.items():
        assert polynomial_degree(alpha, damping, 0.01) == degree
        smaller = [d for d in CHEAP_DEGREES if d < degree]
        assert all(polynomial_error(alpha, damping, d) > 0.01 for d in smaller)


def test_an_unreachable_tolerance_says_what_to_use() -> None:
    with pytest.raises(ValueError, match=r"no polynomial of degree <= 64 .* 'rational' or 'eigh'"):
        polynomial_degree(1.0, 0.001, 0.01)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.3, 2.0, 4.0])
@pytest.mark.parametrize("damping", [1.0, 0.01, 20.0])
def test_peak_is_the_largest_value_on_the_unit_interval(alpha: float, damping: float) -> None:
    expected = transfer(np.linspace(0, 1, 400_001), alpha, damping).max()
    assert transfer_peak(alpha, damping) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("alpha", "damping", "degree"), [(2.0, 0.05, 9), (1.0, 0.01, 20)])
def test_sensitivity_is_value_plus_slope(alpha: float, damping: float, degree: int) -> None:
    x = np.linspace(0, 1, 200_001)
    series = chebyshev.Chebyshev(chebyshev_coefficients(alpha, damping, degree), domain=[0, 1])
    largest = np.abs(series(x)).max() + (np.sqrt(x) * np.abs(series.deriv()(x))).max()
    expected = largest / transfer_peak(alpha, damping)
    assert polynomial_fit(alpha, damping, degree).sensitivity == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.1, 4), "alpha must be > 0"),
        ((2.0, -0.1, 4), "damping must be > 0"),
        ((2.0, 0.1, 0), "degree must be a whole number"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    arguments: tuple[float, float, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        chebyshev_coefficients(*arguments)
    with pytest.raises(ValueError, match="tolerance must be > 0"):
        polynomial_degree(2.0, 0.1, 0.0)


def rational_residual(
    alpha: float, damping: float, fit: tuple[float, tuple[float, ...], tuple[float, ...]]
) -> np.ndarray:
    """sigma (fit - f) over max T, by the definition."""
    c0, weights, poles = fit
    value = c0 + sum(w / (SIGMA**2 + mu) for w, mu in zip(weights, poles, strict=True))
    exact = transfer(SIGMA, alpha, damping)
    return (SIGMA * value - exact) / exact.max()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("damping", [1.0, 0.01, 1e-4])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.9])
def test_the_stated_error_of_poles_holds_everywhere_and_is_reached(
    alpha: float, damping: float, count: int
) -> None:
    fit = fit_poles(alpha, damping, count)
    actual = np.abs(rational_residual(alpha, damping, fit[:3])).max()
    assert actual <= fit.error
    assert fit.error <= 1.01 * actual + 1e-12
    assert len(fit.poles) == len(fit.weights) <= count
    assert min(fit.poles + fit.weights) > 0


@pytest.mark.parametrize(
    ("alpha", "damping", "count"), [(1.0, 0.1, 3), (1.0, 0.01, 4), (0.5, 0.1, 3), (1.5, 0.01, 3)]
)
def test_the_error_is_level_as_of_the_best_fit(alpha: float, damping: float, count: int) -> None:
    """2 count + 2 alternating extrema of one size: no fit with that many poles is better."""
    fit = fit_poles(alpha, damping, count)
    order = np.argsort(SIGMA)
    errors = rational_residual(alpha, damping, fit[:3])[order]
    signs = [np.sign(value) for value in errors if abs(value) > 0.99 * fit.error]
    changes = 1 + sum(a != b for a, b in itertools.pairwise(signs))
    assert changes >= 2 * count + 2


@given(
    alpha=st.floats(0.5, 1.99),
    log_damping=st.floats(-4.0, 0.0),
    tolerance=st.sampled_from([0.1, 0.03, 0.01]),
)
@settings(max_examples=15, deadline=None)
def test_any_alpha_below_two_and_any_damping(
    alpha: float, log_damping: float, tolerance: float
) -> None:
    damping = 10.0**log_damping
    fit = rational_fit(alpha, damping, tolerance)
    assert np.abs(rational_residual(alpha, damping, fit[:3])).max() <= fit.error <= tolerance
    assert min(fit.poles + fit.weights) > 0
    if len(fit.poles) > 1:
        assert fit_poles(alpha, damping, len(fit.poles) - 1).error > tolerance


def test_more_poles_are_never_worse() -> None:
    errors = [fit_poles(1.9, 0.1, count).error for count in range(1, 7)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 3e-4


def test_alpha_two_is_one_exact_pole() -> None:
    assert rational_poles(2.0, 0.03, 1e-9) == (0.0, (1.0,), (0.03,))
    assert rational_fit(2.0, 0.03, 1e-9).error == 0


def test_sensitivity_to_poles_is_value_plus_slope() -> None:
    c0, weights, poles, _, sensitivity = rational_fit(1.0, 0.01, 0.01)
    x = np.concatenate(([0.0], np.logspace(-14, 0, 300_001)))
    pairs = list(zip(weights, poles, strict=True))
    value = abs(c0) + sum(w / mu for w, mu in pairs)
    slope = (np.sqrt(x) * sum(w / (x + mu) ** 2 for w, mu in pairs)).max()
    assert sensitivity == pytest.approx((value + slope) / transfer_peak(1.0, 0.01), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2.5, 0.1, 0.01), "alpha must be <= 2 for real poles"),
        ((0.0, 0.1, 0.01), "alpha must be > 0"),
        ((1.0, 0.0, 0.01), "damping must be > 0"),
        ((1.0, 0.1, 0.0), "tolerance must be > 0"),
        ((1.0, 1e-4, 1e-7), "10 poles reach only error"),
    ],
)
def test_bad_arguments_of_rational_poles_are_refused_by_name(
    arguments: tuple[float, float, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rational_poles(*arguments)
