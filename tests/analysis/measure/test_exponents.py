"""Rows of exponents: every column against the fits, marks instead of drops, a readable table.

The forced part of the identity: its formula, and what each null keeps and breaks.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis import fits
from analysis.measure import exponents
from analysis.measure.exponents import exponents_table

RANK = np.arange(1, 21, dtype=np.float64)


def directions(name: str, sigma: np.ndarray, h: np.ndarray, kind: str = "conv") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": name,
            "layer_type": kind,
            "rows": 64,
            "cols": 576,
            "k": np.arange(1, len(sigma) + 1),
            "sigma": sigma,
            "h": h,
            "step": 120,
            "epoch": 4.5,
        }
    )


def noisy(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sigma = np.sort(np.exp(rng.normal(-3, 1, 20)))[::-1]
    return sigma, sigma**1.8 * np.exp(rng.normal(0, 0.3, 20))


def test_columns_are_the_fits() -> None:
    sigma, h = noisy(0)
    h[4] = -1.0
    table = exponents_table(directions("layer1.0.conv1", sigma, h))
    assert list(table.columns) == [
        *("layer", "layer_type", "rows", "cols", "step", "epoch"),
        *("alpha", "alpha_stderr", "alpha_r2", "gamma", "gamma_stderr", "gamma_r2"),
        *("s", "s_stderr", "s_r2", "n_valid", "reliable"),
        *("predicted_s", "triangle_error", "triangle_relative_error"),
        *("n_directions", "n_negative", "alpha_low", "alpha_high", "gamma_low", "gamma_high"),
        *("s_low", "s_high", "alpha_without_first", "gamma_without_first", "s_without_first"),
        *(f"alpha_quarter{i}" for i in (1, 2, 3, 4)),
        *("rank_model", "bic_power_law", "bic_exponential", "bic_lognormal"),
        *("pr_h", "pr_sigma", "pr_sigma2", "pr_predicted", "zeta_bound", "zeta_met"),
        *("entropy_rank", "rank95", "rank99"),
        *("null_noise_error", "null_permuted_error", "null_other_error"),
    ]
    row = table.iloc[0]
    for name, fit in (
        ("alpha", fits.fit_alpha(sigma, h)),
        ("gamma", fits.fit_gamma(sigma)),
        ("s", fits.fit_s(h)),
    ):
        assert row[name] == fit.exponent
        assert row[f"{name}_stderr"] == fit.stderr
        assert row[f"{name}_r2"] == fit.r2
    assert (row["n_valid"], row["n_directions"]) == (19, 20)
    assert row["predicted_s"] == row["alpha"] * row["gamma"]
    assert row["triangle_error"] == abs(row["s"] - row["predicted_s"])
    assert row["triangle_relative_error"] == row["triangle_error"] / row["s"]
    assert row["alpha_without_first"] == fits.fit_alpha(sigma[1:], h[1:]).exponent
    assert row["rank_model"] == fits.best_rank_model(sigma)
    assert (row["layer"], row["rows"], row["cols"]) == ("layer1.0.conv1", 64, 576)
    assert (row["step"], row["epoch"]) == (120, 4.5)


def test_the_leverage_of_the_first_point_of_each_line() -> None:
    """Each line fitted to its points but k = 1, which keep their ranks."""
    sigma, h = noisy(0)
    h[[2, 4]] = [-1.0, 50 * h.max()]  # the first of h is not the first of sigma
    row = exponents_table(directions("conv", sigma, h)).iloc[0]
    ranked = np.sort(h[h > 0])[::-1]
    keep = h[1:] > 0
    t = np.log(RANK)
    expected = {
        "alpha": np.polyfit(np.log(sigma[1:][keep]), np.log(h[1:][keep]), 1)[0],
        "gamma": -np.polyfit(t[1:], np.log(sigma[1:]), 1)[0],
        "s": -np.polyfit(t[1:19], np.log(ranked[1:]), 1)[0],
    }
    for name, value in expected.items():
        assert row[f"{name}_without_first"] == pytest.approx(value, rel=1e-9)
        assert row[f"{name}_without_first"] != pytest.approx(row[name], rel=1e-2)


def test_layers_keep_their_order_and_do_not_mix() -> None:
    parts = [directions(name, *noisy(seed)) for seed, name in enumerate(("z", "a", "m"))]
    table = exponents_table(pd.concat(parts, ignore_index=True))
    assert list(table["layer"]) == ["z", "a", "m"]
    for seed in range(3):
        assert table["alpha"][seed] == fits.fit_alpha(*noisy(seed)).exponent


@pytest.mark.parametrize(
    ("points", "noise", "reliable"),
    [(20, 0.1, True), (8, 0.1, True), (7, 0.1, False), (20, 3, False), (20, 1.3, False)],
)
def test_unreliable_layers_are_marked_and_kept(points: int, noise: float, reliable: bool) -> None:
    sigma = RANK**-1.0
    h = sigma**2 * np.exp(noise * np.random.default_rng(0).normal(size=20))
    h[points:] = -1.0
    table = exponents_table(directions("conv", sigma, h))
    assert len(table) == 1
    assert bool(table["reliable"][0]) is reliable
    assert table["n_valid"][0] == points
    assert (table["alpha_r2"][0] >= 0.8) == (noise == 0.1)
    assert table["alpha_r2"][0] > 0.74 or noise == 3


def test_directions_beyond_the_numerical_rank_enter_no_fit() -> None:
    sigma, h = RANK[:10] ** -1.0, RANK[:10] ** -2.0
    sigma[9], h[9] = 0.0, 1e-18  # the null direction of a softmax head, h at the rounding level
    row = exponents_table(directions("head", sigma, h, "head")).iloc[0]
    assert row["gamma"] == pytest.approx(1, rel=1e-12)
    assert row["s"] == pytest.approx(2, rel=1e-12)
    assert (row["n_valid"], row["n_directions"]) == (9, 10)


def test_a_layer_without_any_fit_stays_in_the_table() -> None:
    table = exponents_table(directions("dead", np.zeros(3), np.zeros(3)))
    row = table.iloc[0]
    assert math.isnan(row["alpha"])
    assert not row["reliable"]
    assert row["rank_model"] is None or pd.isna(row["rank_model"])
    assert row["n_valid"] == 0


def test_ranks_and_certainty_are_the_functions() -> None:
    sigma, h = noisy(1)
    h[[2, 7]] = [-0.5, 0.0]
    table = exponents_table(directions("conv", sigma, h))
    row, positive = table.iloc[0], h[h > 0]
    s, predicted = fits.fit_s(h).exponent, fits.triangle(sigma, h).predicted_s
    assert row["n_negative"] == 1
    assert row["pr_h"] == fits.participation_ratio(positive)
    assert row["pr_sigma"] == fits.participation_ratio(sigma)
    assert row["pr_sigma2"] == fits.participation_ratio(sigma**2)
    assert row["pr_predicted"] == fits.predicted_effective_rank(predicted, 20)
    assert row["zeta_bound"] == fits.zeta_bound(s)
    assert row["zeta_met"] == (row["pr_h"] <= row["zeta_bound"])
    assert row["entropy_rank"] == fits.entropy_rank(h)
    assert [row["rank95"], row["rank99"]] == [fits.quantile_rank(h, q) for q in (0.95, 0.99)]
    for name, fit in fits.rank_models(sigma).items():
        assert row[f"bic_{name}"] == fit.bic
    assert (row["alpha_low"], row["alpha_high"]) == exponents.alpha_interval(sigma, h)
    assert (row["gamma_low"], row["gamma_high"]) == exponents.gamma_interval(sigma)
    assert (row["s_low"], row["s_high"]) == exponents.s_interval(h)
    quarters = exponents.alpha_by_quartile(sigma, h)
    assert tuple(row[f"alpha_quarter{i}"] for i in (1, 2, 3, 4)) == quarters


@pytest.mark.parametrize(("decay", "met"), [(0.5, None), (3.0, True)])
def test_the_zeta_bound_is_met_or_does_not_apply(decay: float, met: bool | None) -> None:
    row = exponents_table(directions("conv", RANK**-1.0, RANK**-decay)).iloc[0]
    assert row["zeta_met"] is pd.NA if met is None else bool(row["zeta_met"]) is met


def test_a_flat_curvature_breaks_the_zeta_bound() -> None:
    """Half of h equal, then a steep fall: s > 1, and more of h counts than zeta allows."""
    h = np.where(RANK <= 12, 1.0, (RANK / 12) ** -14.0)
    row = exponents_table(directions("conv", RANK**-1.0, h)).iloc[0]
    assert row["s"] > 1
    assert not row["zeta_met"]


def test_nulls_take_the_other_layers() -> None:
    parts = [directions(name, *noisy(seed)) for seed, name in enumerate(("a", "b", "c"))]
    table = exponents_table(pd.concat(parts, ignore_index=True))
    sigma, h = noisy(1)
    errors = exponents.other_errors(sigma, [noisy(0)[1], noisy(2)[1]])
    assert table["null_other_error"][1] == np.median(errors)
    assert table["null_noise_error"][1] == np.median(exponents.noise_errors(sigma, h))
    assert table["null_permuted_error"][1] == np.median(exponents.permuted_errors(sigma, h))
    alone = exponents_table(parts[0])
    assert math.isnan(alone["null_other_error"][0])


RANK_NULLS = np.arange(1, 21)


def layer(seed: int, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sigma = np.sort(np.exp(rng.normal(-3, 1, 20)))[::-1]
    return sigma, 5 * sigma**1.8 * np.exp(rng.normal(0, noise, 20))


def test_noise_errors_are_those_of_drawn_curvatures() -> None:
    """The same draws fitted one by one; residual variance RSS / (n - 2)."""
    sigma, h = layer(0)
    fit = fits.fit_alpha(sigma, h)
    line = fit.log_prefactor + fit.exponent * np.log(sigma)
    scale = np.sqrt(((np.log(h) - line) ** 2).sum() / 18)
    noise = np.random.default_rng(0).normal(0, scale, (7, 20))
    expected = [abs(fits.triangle(sigma, np.exp(line + row)).relative_error) for row in noise]
    np.testing.assert_allclose(exponents.noise_errors(sigma, h, draws=7), expected, rtol=1e-9)


def test_permuted_errors_keep_the_residuals() -> None:
    sigma, h = layer(1)
    fit = fits.fit_alpha(sigma, h)
    line = fit.log_prefactor + fit.exponent * np.log(sigma)
    residual = np.log(h) - line
    rows = np.random.default_rng(0).permuted(np.tile(residual, (5, 1)), axis=1)
    expected = [abs(fits.triangle(sigma, np.exp(line + row)).relative_error) for row in rows]
    np.testing.assert_allclose(exponents.permuted_errors(sigma, h, draws=5), expected, rtol=1e-9)
    assert len(np.unique(np.round(exponents.permuted_errors(sigma, h), 12))) > 100


def test_a_law_without_noise_has_errors_of_rounding_only() -> None:
    """On an exact power law of both, nothing is left to be wrong."""
    sigma = RANK_NULLS**-0.9
    assert exponents.noise_errors(sigma, sigma**2.0).max() < 1e-12
    assert exponents.permuted_errors(sigma, sigma**2.0).max() < 1e-12


def test_more_noise_makes_larger_errors() -> None:
    sigma, _ = layer(2)
    quiet, loud = (
        np.median(
            exponents.noise_errors(sigma, sigma**2 * np.exp(noise * np.sin(7.0 * RANK_NULLS)))
        )
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
    np.testing.assert_allclose(exponents.other_errors(sigma, others), expected)
    assert len(exponents.other_errors(sigma, [])) == 0


def test_three_points_are_enough() -> None:
    assert len(exponents.noise_errors([4.0, 2.0, 1.0], [9.0, 5.0, 1.0])) == exponents.DRAWS
    assert len(exponents.permuted_errors([4.0, 2.0, 1.0], [9.0, 5.0, 1.0])) == exponents.DRAWS


def test_layers_without_a_fit_give_nothing() -> None:
    few, flat, negative = ([1.0, 0.5], [1.0, 0.2]), ([1.0] * 5,) * 2, ([1.0] * 4, [-1] * 4)
    for sigma, h in (([], []), few, flat, negative):
        assert len(exponents.noise_errors(sigma, h)) == 0
        assert len(exponents.permuted_errors(sigma, h)) == 0


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
    np.testing.assert_allclose(exponents.noise_errors(sigma, h, draws=6), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("observed", "p"), [(0.5, 5 / 5), (2.0, 3 / 5), (3.5, 1 / 5), (1.0, 5 / 5)]
)
def test_permutation_p_value(observed: float, p: float) -> None:
    """Four of the null, the observed one counted in: never zero."""
    assert exponents.permutation_p_value(observed, [1.0, 1.0, 2.0, 3.0]) == pytest.approx(p)
    assert np.isnan(exponents.permutation_p_value(observed, []))


def test_permutation_p_value_is_uniform_under_the_null() -> None:
    rng = np.random.default_rng(0)
    values = [exponents.permutation_p_value(rng.normal(), rng.normal(size=99)) for _ in range(2000)]
    assert np.mean(np.asarray(values) <= 0.05) == pytest.approx(0.05, abs=0.015)
