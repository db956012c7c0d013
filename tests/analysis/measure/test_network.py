"""Measuring a network: against an SVD and a dense Hessian, and the shape of the tables."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, hessian

from analysis.measure.exponents import exponents_table
from analysis.measure.network import measure
from analysis.measure.weights import weights_table
from analysis.objective import Settings

DOUBLE = Settings(dtype=torch.float64)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5)
    ).eval()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, 1, 8, 8, generator=generator), torch.randint(
        0, 5, (40,), generator=generator
    )


def test_measure_agrees_with_svd_and_dense_hessian(
    network: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    table = measure(network, *data, k=3, settings=DOUBLE).directions
    model, inputs = network.double(), data[0].double()
    F.cross_entropy(model(inputs), data[1]).backward()
    for layer in ("0", "4"):
        rows = table[table["layer"] == layer]
        weight = model.get_parameter(f"{layer}.weight")
        u, sigma, vh = torch.linalg.svd(weight.grad.flatten(1), full_matrices=False)
        name = f"{layer}.weight"

        def loss(flat: Tensor, name: str = name, weight: Tensor = weight) -> Tensor:
            outputs = functional_call(model, {name: flat.view_as(weight)}, (inputs,))
            return F.cross_entropy(outputs, data[1])

        dense = hessian(loss)(weight.detach().flatten())
        flat = torch.einsum("mk,kn->kmn", u[:, :3], vh[:3]).flatten(1)
        h = torch.einsum("ki,ij,kj->k", flat, dense, flat)
        assert rows["sigma"].tolist() == pytest.approx(sigma[:3].tolist(), rel=1e-9)
        assert rows["h"].tolist() == pytest.approx(h.tolist(), rel=1e-8, abs=1e-12)


def test_tables_are_tidy(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    found = measure(network, *data, k=20, step=7, epoch=0.5)
    table = found.directions
    assert list(table.columns) == [
        *("layer", "layer_type", "rows", "cols", "k", "sigma", "h", "engine", "step", "epoch")
    ]
    assert table["k"].tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 5]  # never more than min(m, n)
    assert table["layer"].tolist() == ["0"] * 4 + ["4"] * 5
    assert table["layer_type"].unique().tolist() == ["conv", "head"]
    assert table[["rows", "cols"]].drop_duplicates().values.tolist() == [[4, 9], [5, 144]]
    assert set(table["step"]) == {7}
    assert set(table["epoch"]) == {0.5}
    assert table.dtypes[["sigma", "h", "epoch"]].tolist() == ["float64"] * 3
    fitted, weights = exponents_table(table), weights_table(network, ["0", "4"])
    assert list(found.exponents.columns) == [
        *fitted.columns, *weights.columns[1:], "gradient_norm", "gradient_schatten8"
    ]  # fmt: skip
    pd.testing.assert_frame_equal(found.exponents[fitted.columns], fitted)
    pd.testing.assert_frame_equal(found.exponents[weights.columns], weights)


def test_engines_are_chosen_or_named(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """Tanh bends: double backward; above it, the head alone may be swept."""
    assert set(measure(network, *data, k=2).directions["engine"]) == {"double_backward"}
    head = measure(network, *data, k=5, layers=["4"], settings=DOUBLE).directions
    assert set(head["engine"]) == {"tangent"}  # five classes, five directions
    named = measure(
        network, *data, k=5, layers=["4"], engine="forward_over_reverse", settings=DOUBLE
    ).directions
    assert set(named["engine"]) == {"forward_over_reverse"}
    assert named["h"].tolist() == pytest.approx(head["h"].tolist(), rel=1e-9, abs=1e-14)
    with pytest.raises(ValueError, match=r"engine 'sweep' does not apply: .*Tanh"):
        measure(network, *data, k=2, engine="sweep")


def test_measure_repeats_and_takes_layers(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    first, second = (measure(network, *data, k=4, layers=["4"]) for _ in range(2))
    pd.testing.assert_frame_equal(first.directions, second.directions)
    assert first.exponents["layer"].tolist() == ["4"]


def test_tied_weights_are_measured_under_both_names() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    inputs, labels = torch.randn(10, 4), torch.randint(0, 3, (10,))
    table = measure(model, inputs, labels, k=2, settings=DOUBLE).directions
    one, other = (table[table["layer"] == name] for name in ("0", "2"))
    assert one["h"].tolist() == pytest.approx(other["h"].tolist(), rel=1e-12)
    assert set(table["layer"]) == {"0", "2", "4"}


def test_nothing_to_measure_is_said(data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="no Linear or Conv weight to measure"):
        measure(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), *data)


def test_a_run_can_measure_itself_without_bench_or_hydra() -> None:
    banned = "bench", "hydra", "omegaconf", "wandb", "pydantic", "rich"
    code = f"import sys, analysis.measure.network; print({{*{banned}}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
