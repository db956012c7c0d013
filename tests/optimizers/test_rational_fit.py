from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizers.rational_fit import fit_poles, rational_fit, rational_poles
from optimizers.transfer_fit import transfer_peak

SIGMA = np.concatenate((np.logspace(-10, 0, 10_011), np.linspace(1e-4, 1, 10_011)))


def residual(
    alpha: float, damping: float, fit: tuple[float, tuple[float, ...], tuple[float, ...]]
) -> np.ndarray:
    """sigma (fit - f) over max T, by the definition."""
    c0, weights, poles = fit
    value = c0 + sum(w / (SIGMA**2 + mu) for w, mu in zip(weights, poles, strict=True))
    exact = SIGMA / (SIGMA**alpha + damping)
    return (SIGMA * value - exact) / exact.max()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("damping", [1.0, 0.01, 1e-4])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.9])
def test_the_stated_error_holds_everywhere_and_is_reached(
    alpha: float, damping: float, count: int
) -> None:
    fit = fit_poles(alpha, damping, count)
    actual = np.abs(residual(alpha, damping, fit[:3])).max()
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
    errors = residual(alpha, damping, fit[:3])[order]
    signs = [np.sign(value) for value in errors if abs(value) > 0.99 * fit.error]
    changes = 1 + sum(a != b for a, b in itertools.pairwise(signs))
    assert changes >= 2 * count + 2


def test_three_poles_at_the_papers_damping() -> None:
    c0, weights, poles = rational_poles(1.0, 0.1, 0.003)
    assert len(poles) == len(weights) == 3
    assert np.abs(residual(1.0, 0.1, (c0, weights, poles))).max() < 0.003


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
    assert np.abs(residual(alpha, damping, fit[:3])).max() <= fit.error <= tolerance
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


def test_sensitivity_is_value_plus_slope() -> None:
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
def test_bad_arguments_are_refused_by_name(
    arguments: tuple[float, float, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rational_poles(*arguments)
