"""The Kronecker side of a measured network, as tables."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from analysis.command.kronecker_view import match_lines, render
from analysis.measure.kronecker import measure_kronecker
from analysis.measure.network import measure
from analysis.objective import Settings

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
    table = render(side.layers)
    assert list(table.columns[0].cells) == side.layers["layer"].tolist()
    assert f"{side.layers['alpha_kron'][0]:.3g}" in list(table.columns[2].cells)
    lines = match_lines(side.layers)
    assert len(lines) == 4
    assert lines[0].startswith("class errors: C_delta has the gradient's rank model in ")
