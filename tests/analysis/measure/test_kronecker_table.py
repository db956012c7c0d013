"""Rows of the Kronecker side: identities of slopes, and matches against chance."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import fits
from analysis.kronecker import KroneckerSide
from analysis.measure.kronecker_table import direction_rows, layer_row, model_match

RANK = np.arange(1, 13, dtype=np.float64)


def example(seed: int = 0) -> tuple[pd.DataFrame, KroneckerSide]:
    rng = np.random.default_rng(seed)

    def noisy(exponent: float) -> torch.Tensor:
        return torch.from_numpy(RANK**-exponent * np.exp(rng.normal(0, 0.2, 12)))

    sigma = np.sort(noisy(1.0).numpy())[::-1].copy()
    spectra = [noisy(e).sort(descending=True).values for e in (1.2, 0.7)]
    side = KroneckerSide(
        delta=noisy(1.1), inputs=noisy(0.9), delta_spectrum=spectra[0], input_spectrum=spectra[1],
        positions=16.0, sud=noisy(0.1), iad=noisy(0.1),
    )  # fmt: skip
    curvature = pd.DataFrame(
        {"layer": "conv", "k": RANK.astype(int), "sigma": sigma, "h": noisy(2.0).numpy(),
         "engine": "sweep", "step": 5, "epoch": 1.0}
    )  # fmt: skip
    return curvature, side


def test_rows_are_the_definitions() -> None:
    curvature, side = example()
    rows = direction_rows(curvature, side, "class")
    assert rows["k"].tolist() == list(range(1, 13))
    assert set(rows["errors"]) == {"class"}
    delta, inputs = side.delta.numpy(), side.inputs.numpy()
    np.testing.assert_allclose(rows["h_kron"], delta * inputs / 16)
    np.testing.assert_allclose(rows["chi"] * rows["h_kron"], curvature["h"])
    eigenvalues = side.delta_spectrum.numpy() * side.input_spectrum.numpy()
    np.testing.assert_allclose(rows["phi"] * eigenvalues, delta * inputs)  # Phi Lambda = h_kron T
    np.testing.assert_allclose(rows["rho_delta"] * rows["lambda_delta"], delta)
    np.testing.assert_allclose(rows["rho_a"] * rows["lambda_a"], inputs)


@pytest.mark.parametrize("seed", range(4))
def test_slopes_add_up(seed: int) -> None:
    """alpha_kron = beta + phi, and the measured alpha = beta + phi + chi_slope: with a plus."""
    curvature, side = example(seed)
    row = layer_row(direction_rows(curvature, side, "label"), side)
    assert row["alpha_kron"] == pytest.approx(row["beta"] + row["phi"], abs=1e-12)
    alpha = fits.fit_alpha(curvature["sigma"], curvature["h"]).exponent
    assert alpha == pytest.approx(row["beta"] + row["phi"] + row["chi_slope"], abs=1e-12)
    assert row["errors"] == "label"
    assert (row["positions"], row["step"], row["epoch"]) == (16.0, 5, 1.0)


def test_layer_summary_is_the_functions() -> None:
    curvature, side = example()
    rows = direction_rows(curvature, side, "class")
    row = layer_row(rows, side)
    sigma = curvature["sigma"].to_numpy()
    assert row["iad_median"] == np.median(side.iad)
    assert row["sud_median"] == np.median(side.sud)
    assert row["chi_median"] == np.median(rows["chi"])
    assert row["delta_rank"] == fits.participation_ratio(side.delta_spectrum.numpy())
    assert row["input_rank"] == fits.participation_ratio(side.input_spectrum.numpy())
    assert row["identity_correlation"] == fits.log_correlation(rows["h_kron"], sigma**2)
    assert row["sigma_model"] == fits.best_rank_model(sigma)
    assert row["delta_model"] == fits.best_rank_model(side.delta_spectrum.numpy())


def test_directions_without_a_gradient_enter_no_fit() -> None:
    curvature, side = example()
    curvature.loc[11, ["sigma", "h"]] = 0.0
    rows = direction_rows(curvature, side, "class")
    row, shorter = layer_row(rows, side), layer_row(rows[:11], side)
    for name in ("beta", "phi", "alpha_kron", "chi_slope", "iad_median", "sigma_model"):
        assert row[name] == shorter[name]
    assert row["delta_model"] == fits.best_rank_model(side.delta_spectrum.numpy()[:11])


def test_a_factor_is_modelled_over_as_many_values_as_there_are_directions() -> None:
    curvature, side = example()
    rank = np.arange(1, 41, dtype=np.float64)
    falling = rank**-1.0 * np.where(rank > 12, np.exp(-0.9 * (rank - 12)), 1.0)
    longer = dataclasses.replace(side, delta_spectrum=torch.from_numpy(falling))
    row = layer_row(direction_rows(curvature, longer, "class"), longer)
    assert row["delta_model"] == fits.best_rank_model(falling[:12]) == "power_law"
    assert fits.best_rank_model(falling) != "power_law"


def models(sigma: str, delta: str) -> pd.DataFrame:
    names = {"p": "power_law", "e": "exponential", "l": "lognormal", "-": None}
    return pd.DataFrame(
        {"sigma_model": [names[c] for c in sigma], "delta_model": [names[c] for c in delta]}
    )


def test_match_rate_against_chance() -> None:
    alike = model_match(models("ppppeeeelll", "ppppeeeelll"), "delta")
    assert alike.rate == 1
    assert alike.p_value < 0.002
    assert alike.expected == pytest.approx((16 + 16 + 9) / 121, abs=0.01)
    same = model_match(models("pppppppp", "pppppppp"), "delta")  # alike, and nothing else could be
    assert (same.rate, same.expected, same.p_value) == (1, 1, 1)
    crossed = model_match(models("ppee", "eepp"), "delta")
    assert crossed.rate == 0
    assert crossed.p_value == 1


def test_layers_without_a_model_are_left_out() -> None:
    assert model_match(models("pp-e", "pe-e"), "delta").rate == pytest.approx(2 / 3)
    assert np.isnan(model_match(models("--", "pp"), "delta").rate)
