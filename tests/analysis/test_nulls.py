"""The forced part of the identity: its formula, and what each null keeps and breaks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import fits, nulls

RANK = np.arange(1, 21)


def layer(seed: int, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sigma = np.sort(np.exp(rng.normal(-3, 1, 20)))[::-1]
    return sigma, 5 * sigma**1.8 * np.exp(rng.normal(0, noise, 20))


@given(seed=st.integers(0, 10**6), noise=st.floats(0.01, 3))
@settings(max_examples=40, deadline=None)
def test_the_identity_fails_by_the_stated_covariance(seed: int, noise: float) -> None:
    """s of unsorted h minus alpha gamma, by three fits and by both forms of the formula."""
    sigma, h = layer(seed, noise)
    t, log_sigma = np.log(RANK), np.log(sigma)
    unsorted = -np.polyfit(t, np.log(h), 1)[0]
    alpha, gamma = np.polyfit(log_sigma, np.log(h), 1)[0], -np.polyfit(t, log_sigma, 1)[0]
    gap = unsorted - alpha * gamma
    assert nulls.unsorted_residual(sigma, h) == pytest.approx(gap, abs=1e-9)
    eps = np.log(h) - np.polyval(np.polyfit(log_sigma, np.log(h), 1), log_sigma)
    eta = log_sigma - np.polyval(np.polyfit(t, log_sigma, 1), t)
    covariance = np.mean(eps * eta) - eps.mean() * eta.mean()
    assert gap == pytest.approx(-covariance / (gamma * np.var(t)), abs=1e-9)


def test_noise_errors_are_those_of_drawn_curvatures() -> None:
    """The same draws fitted one by one; residual variance RSS / (n - 2)."""
    sigma, h = layer(0)
    fit = fits.fit_alpha(sigma, h)
    line = fit.log_prefactor + fit.exponent * np.log(sigma)
    scale = np.sqrt(((np.log(h) - line) ** 2).sum() / 18)
    noise = np.random.default_rng(0).normal(0, scale, (7, 20))
    expected = [abs(fits.triangle(sigma, np.exp(line + row)).relative_error) for row in noise]
    np.testing.assert_allclose(nulls.noise_errors(sigma, h, draws=7), expected, rtol=1e-9)


def test_permuted_errors_keep_the_residuals() -> None:
    sigma, h = layer(1)
    fit = fits.fit_alpha(sigma, h)
    line = fit.log_prefactor + fit.exponent * np.log(sigma)
    residual = np.log(h) - line
    rows = np.random.default_rng(0).permuted(np.tile(residual, (5, 1)), axis=1)
    expected = [abs(fits.triangle(sigma, np.exp(line + row)).relative_error) for row in rows]
    np.testing.assert_allclose(nulls.permuted_errors(sigma, h, draws=5), expected, rtol=1e-9)
    assert len(np.unique(np.round(nulls.permuted_errors(sigma, h), 12))) > 100


def test_a_law_without_noise_has_errors_of_rounding_only() -> None:
    """On an exact power law of both, nothing is left to be wrong."""
    sigma = RANK**-0.9
    assert nulls.noise_errors(sigma, sigma**2.0).max() < 1e-12
    assert nulls.permuted_errors(sigma, sigma**2.0).max() < 1e-12


def test_more_noise_makes_larger_errors() -> None:
    sigma, _ = layer(2)
    quiet, loud = (
        np.median(nulls.noise_errors(sigma, sigma**2 * np.exp(noise * np.sin(7.0 * RANK))))
        for noise in (0.05, 1.0)
    )
    assert loud > 5 * quiet


def test_other_layers() -> None:
    sigma, _ = layer(3)
    others = [layer(4)[1], layer(5)[1][:12], -np.ones(20)]
    expected = [
        abs(fits.triangle(sigma, others[0]).relative_error),
        abs(fits.triangle(sigma[:12], others[1]).relative_error),
    ]
    np.testing.assert_allclose(nulls.other_errors(sigma, others), expected)
    assert len(nulls.other_errors(sigma, [])) == 0


def test_three_points_are_enough() -> None:
    assert len(nulls.noise_errors([4.0, 2.0, 1.0], [9.0, 5.0, 1.0])) == nulls.DRAWS
    assert len(nulls.permuted_errors([4.0, 2.0, 1.0], [9.0, 5.0, 1.0])) == nulls.DRAWS


def test_layers_without_a_fit_give_nothing() -> None:
    few, flat, negative = ([1.0, 0.5], [1.0, 0.2]), ([1.0] * 5,) * 2, ([1.0] * 4, [-1] * 4)
    for sigma, h in (([], []), few, flat, negative):
        assert len(nulls.noise_errors(sigma, h)) == 0
        assert len(nulls.permuted_errors(sigma, h)) == 0
    assert np.isnan(nulls.unsorted_residual([1.0], [1.0]))


def test_a_layer_with_negative_curvature_is_measured_as_it_is() -> None:
    """gamma over every sigma, alpha and s over what is left: the identity's own error, redrawn."""
    sigma, h = layer(6)
    h[[0, 3]], h[9] = -1, np.inf
    keep = np.delete(np.arange(20), [0, 3, 9])
    fit = fits.fit_alpha(sigma, h)
    line = fit.log_prefactor + fit.exponent * np.log(sigma[keep])
    scale = np.sqrt(((np.log(h[keep]) - line) ** 2).sum() / 15)
    expected = []
    for row in np.random.default_rng(0).normal(0, scale, (6, 17)):
        drawn = np.full(20, -1.0)
        drawn[keep] = np.exp(line + row)
        expected.append(abs(fits.triangle(sigma, drawn).relative_error))
    np.testing.assert_allclose(nulls.noise_errors(sigma, h, draws=6), expected, rtol=1e-9)
    assert nulls.unsorted_residual(sigma, h) == nulls.unsorted_residual(sigma[keep], h[keep])


@pytest.mark.parametrize(
    ("observed", "p"), [(0.5, 5 / 5), (2.0, 3 / 5), (3.5, 1 / 5), (1.0, 5 / 5)]
)
def test_permutation_p_value(observed: float, p: float) -> None:
    """Four of the null, the observed one counted in: never zero."""
    assert nulls.permutation_p_value(observed, [1.0, 1.0, 2.0, 3.0]) == pytest.approx(p)
    assert np.isnan(nulls.permutation_p_value(observed, []))


def test_permutation_p_value_is_uniform_under_the_null() -> None:
    rng = np.random.default_rng(0)
    values = [nulls.permutation_p_value(rng.normal(), rng.normal(size=99)) for _ in range(2000)]
    assert np.mean(np.asarray(values) <= 0.05) == pytest.approx(0.05, abs=0.015)
