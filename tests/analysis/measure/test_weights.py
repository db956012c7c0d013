"""Weight spectra against matrices of known singular values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from analysis import fits
from analysis.measure import network
from analysis.measure.network import weights_table


def with_spectrum(values: np.ndarray, rows: int, cols: int) -> torch.Tensor:
    torch.manual_seed(0)
    n = len(values)
    u, v = (torch.linalg.qr(torch.randn(side, n).double())[0] for side in (rows, cols))
    return u @ torch.diag(torch.from_numpy(values)) @ v.T


def test_decay_and_tail_of_a_power_law() -> None:
    """lambda_k = 4 k^-1.6 decays with 1.6, and its density falls with 1 + 1/1.6."""
    values = 2 * np.arange(1, 401) ** -0.8
    model = nn.Sequential(nn.Linear(500, 400, dtype=torch.float64))
    model[0].weight.data = with_spectrum(values, 400, 500)
    row = weights_table(model, ["0"]).iloc[0]
    assert row["weight_gamma"] == pytest.approx(1.6, rel=1e-9)
    assert row["weight_gamma_r2"] == pytest.approx(1, rel=1e-9)
    assert row["weight_tail"] == pytest.approx(1 + 1 / 1.6, abs=3 * row["weight_tail_stderr"])
    assert row["weight_tail"] == pytest.approx(network.clauset(values**2).exponent, rel=1e-6)
    assert row["weight_pr"] == pytest.approx(fits.participation_ratio(values**2), rel=1e-9)
    assert row["weight_norm"] == pytest.approx(np.sqrt((values**2).sum()), rel=1e-9)


def test_convolutions_are_matrices_and_order_is_kept() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4))
    table = weights_table(model, ["2", "0"])
    assert table["layer"].tolist() == ["2", "0"]
    matrix = model[0].weight.detach().double().flatten(1).numpy()
    squared = np.linalg.svd(matrix, compute_uv=False) ** 2
    assert table["weight_gamma"][1] == pytest.approx(fits.fit_gamma(squared).exponent, rel=1e-10)
    assert np.isnan(table["weight_tail"][1])  # eight values are no tail
    assert table["weight_tail_n"][1] == 0


def test_zero_directions_do_not_decide() -> None:
    model = nn.Linear(30, 20, dtype=torch.float64)
    values = np.arange(1, 11) ** -1.0
    model.weight.data = with_spectrum(values, 20, 30)  # rank 10: the rest is rounding
    row = weights_table(model, [""]).iloc[0]
    assert row["weight_gamma"] == pytest.approx(2.0, rel=1e-6)


def test_small_but_real_values_count() -> None:
    model = nn.Linear(12, 8, dtype=torch.float64)
    model.weight.data = torch.diag(10.0 ** -torch.arange(12.0).double())[:8]
    squared = 10.0 ** (-2 * np.arange(8))
    row = weights_table(model, [""]).iloc[0]
    assert row["weight_gamma"] == pytest.approx(fits.fit_gamma(squared).exponent, rel=1e-6)


def test_a_dead_layer_stays() -> None:
    model = nn.Linear(4, 3)
    nn.init.zeros_(model.weight)
    row = weights_table(model, [""]).iloc[0]
    assert np.isnan(row["weight_gamma"])
    assert row["weight_norm"] == 0
