"""A run's own measurement: the same numbers as the command's, and never the end of the run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from analysis.callback import CurvatureCallback, logged
from analysis.curvature_core.objective import Settings
from analysis.measure.network import measure


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10))


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(40, 6), torch.randint(0, 10, (40,))


def test_what_is_written_and_logged(
    network: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    callback = CurvatureCallback(directions=6, dtype="float64")
    values = callback(network, data, tmp_path, 30, 1.5)
    expected = measure(
        network, *data, 6, settings=Settings(torch.float64, "auto"), step=30, epoch=1.5
    )
    table = pd.read_parquet(tmp_path / "exponents.parquet")
    assert table["alpha"].tolist() == expected.exponents["alpha"].tolist()
    assert set(table["epoch"]) == {1.5}
    directions = pd.read_parquet(tmp_path / "curvature.parquet")
    assert directions["h"].tolist() == expected.directions["h"].tolist()
    assert values == logged(expected)
    assert list(values) == [
        *("alpha/0", "gamma/0", "s/0", "alpha/2", "gamma/2", "s/2", "curvature/reliable")
    ]
    assert values["s/2"] == table["s"][1]
    assert values["curvature/reliable"] == table["reliable"].mean()


def test_tokens_are_measured_too(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 7))
    tokens = torch.randint(0, 7, (8, 4)), torch.randint(0, 7, (8, 4))
    values = CurvatureCallback(directions=4, microbatch=3)(model, tokens, tmp_path, 0, 0.0)
    assert "alpha/1" in values
    assert set(pd.read_parquet(tmp_path / "curvature.parquet")["engine"]) == {"double_backward"}


def test_values_that_are_not_finite_are_not_logged(
    network: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    values = CurvatureCallback(directions=1)(network, data, tmp_path, 0, 0.0)  # one point, no slope
    assert values == {"curvature/reliable": 0.0}


def test_what_cannot_be_measured_is_said_and_skipped(
    network: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    nn.init.constant_(network[0].weight, float("nan"))
    assert CurvatureCallback()(network, data, tmp_path, 7, 2.0) == {}
    out = capsys.readouterr().out
    assert out == (
        f"{tmp_path.name}: no curvature at epoch 2: layer '0': the gradient is not finite on "
        "this batch\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [{"directions": 0}, {"batch": 0}, {"microbatch": 0}, {"mode": "test"}]
)
def test_wrong_options_are_refused_before_any_run(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        CurvatureCallback(**wrong)  # type: ignore[arg-type]
