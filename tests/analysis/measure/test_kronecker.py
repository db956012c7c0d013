"""The Kronecker side of a measured network, as tables.

Rows of the Kronecker side: identities of slopes, and matches against chance.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from analysis import fits
from analysis.command.views import match_lines, render_kronecker
from analysis.curvature_core.kronecker import KroneckerSide
from analysis.curvature_core.objective import Settings
from analysis.measure.kronecker import direction_rows, layer_row, measure_kronecker, model_match
from analysis.measure.network import measure

DOUBLE = Settings(dtype=torch.float64)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5))


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(30, 6), torch.randint(0, 5, (30,))


def test_slopes_meet_the_measured_alpha(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    found = measure(network, *data, 4, settings=DOUBLE, step=3, epoch=1.0)
    seen: list[tuple[int, int]] = []
    side = measure_kronecker(
        network, *data, found.directions, settings=DOUBLE,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert side.notes == []
    assert seen == [(1, 2), (2, 2)]
    assert len(side.directions) == 2 * len(found.directions)
    alphas = found.exponents.set_index("layer")["alpha"]
    for row in side.layers.to_dict("records"):
        assert row["step"] == 3
        total = row["beta"] + row["phi"] + row["chi_slope"]
        assert total == pytest.approx(alphas[row["layer"]], abs=1e-8)


def test_tokens_have_label_errors_and_a_note() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 5))
    tokens = torch.randint(0, 5, (6, 3)), torch.randint(0, 5, (6, 3))
    found = measure(model, *tokens, 3, settings=DOUBLE)
    side = measure_kronecker(model, *tokens, found.directions, settings=DOUBLE)
    assert set(side.layers["errors"]) == {"label"}
    assert side.notes == [
        "no class errors: class errors need logits [B, C] with C <= 256, not (6, 3, 5)"
    ]


def test_curvature_of_another_batch_is_refused(
    network: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    found = measure(network, *data, 4, settings=DOUBLE)
    with pytest.raises(ValueError, match="layer '0': its curvature is of other weights"):
        measure_kronecker(network, data[0][:20], data[1][:20], found.directions, settings=DOUBLE)


def test_no_layer_with_factors() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv1d(4, 4, 4, groups=2), nn.Flatten(), nn.Linear(4, 4))
    data = torch.randn(5, 4, 4), torch.randint(0, 4, (5,))
    found = measure(model, *data, 2, settings=DOUBLE)
    said = "no Kronecker factors of layer '0': a Conv1d of 2 groups is neither a Linear nor an"
    side = measure_kronecker(model, *data, found.directions, settings=DOUBLE)
    assert set(side.directions["layer"]) == {"2"}
    assert side.notes == [f"{said} ungrouped convolution"]
    alone = found.directions[found.directions["layer"] == "0"]
    with pytest.raises(ValueError, match=said):
        measure_kronecker(model, *data, alone, settings=DOUBLE)


def test_the_view_names_every_layer(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    found = measure(network, *data, 4, settings=DOUBLE)
    side = measure_kronecker(network, *data, found.directions, settings=DOUBLE)
    table = render_kronecker(side.layers)
    assert [row[0] for row in table.rows] == side.layers["layer"].tolist()
    assert table.rows[0][2] == f"{side.layers['alpha_kron'][0]:.3g}"
    lines = match_lines(side.layers)
    assert len(lines) == 4
    assert lines[0].startswith("class errors: C_delta has the gradient's rank model in ")


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
