"""Rows of exponents: every column against the fits, marks instead of drops, a readable table."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import fits
from analysis.exponents import exponents_table

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
        *("layer", "layer_type", "rows", "cols"),
        *("alpha", "alpha_stderr", "alpha_r2", "gamma", "gamma_stderr", "gamma_r2"),
        *("s", "s_stderr", "s_r2", "n_valid", "reliable", "step", "epoch"),
        *("predicted_s", "triangle_error", "triangle_relative_error", "n_directions"),
        *("alpha_without_first", "rank_model"),
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


def test_layers_keep_their_order_and_do_not_mix() -> None:
    parts = [directions(name, *noisy(seed)) for seed, name in enumerate(("z", "a", "m"))]
    table = exponents_table(pd.concat(parts, ignore_index=True))
    assert list(table["layer"]) == ["z", "a", "m"]
    for seed in range(3):
        assert table["alpha"][seed] == fits.fit_alpha(*noisy(seed)).exponent


@pytest.mark.parametrize(
    ("points", "noise", "reliable"),
    [(20, 0.1, True), (8, 0.1, True), (7, 0.1, False), (20, 3, False)],
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
