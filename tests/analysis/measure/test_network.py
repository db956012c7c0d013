"""Measuring a network: against an SVD and a dense Hessian, and the shape of the tables.

Tail exponents against samples of known tails, and against the package powerlaw.
"""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, hessian

from analysis.curvature_core.objective import Settings
from analysis.measure.exponents import exponents_table
from analysis.measure.network import clauset, measure, weights_table

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


def sample(seed: int, exponent: float, n: int, body: int = 0) -> np.ndarray:
    """Pareto above 1 of this density exponent, and ``body`` values below that are no power law."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.pareto(exponent - 1, n) + 1, rng.uniform(0.2, 1.0, body)])


@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_powerlaw(seed: int) -> None:
    powerlaw = pytest.importorskip("powerlaw")
    values = sample(seed, 3.2, 60, body=20)
    found = clauset(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"verbose": 0, "parameter_ranges": {"alpha": [1.01, 20]}}
        theirs = powerlaw.Fit(values, xmin=found.xmin, **options)
    assert found.exponent == pytest.approx(theirs.power_law.alpha, rel=1e-6)
    assert found.distance == pytest.approx(theirs.power_law.D, rel=1e-6)


@given(seed=st.integers(0, 10**6), exponent=st.floats(1.5, 5), n=st.integers(200, 500))
@settings(max_examples=20, deadline=None)
def test_pure_tails_come_back(seed: int, exponent: float, n: int) -> None:
    found = clauset(sample(seed, exponent, n))
    assert abs(found.exponent - exponent) < 6 * found.stderr
    assert found.stderr == pytest.approx((found.exponent - 1) / np.sqrt(found.n_tail))


@pytest.mark.parametrize("seed", range(6))
def test_the_tail_is_the_best_of_all(seed: int) -> None:
    """Every distinct value tried as xmin with all values from it on, one by one; many are equal."""
    values = np.round(sample(seed, 2.4, 25, body=10), 1)
    best = (np.inf, 0.0, 0.0, 0)
    for xmin in np.unique(values):
        tail = np.sort(values[values >= xmin])
        if len(tail) < 10 or tail[-1] == xmin:
            continue
        exponent = 1 + 1 / np.mean(np.log(tail / xmin))
        below = np.arange(len(tail)) / len(tail)
        distance = np.abs(1 - (tail / xmin) ** (1 - exponent) - below).max()
        best = min(best, (distance, xmin, exponent, len(tail)))
    found = clauset(values)
    assert (found.xmin, found.n_tail) == (best[1], best[3])
    assert (found.distance, found.exponent) == pytest.approx((best[0], best[2]), rel=1e-9)
    assert clauset([*values, np.inf, -1.0]) == found


def test_ten_values_are_a_tail() -> None:
    values = sample(3, 2.5, 10)
    found = clauset(values)
    assert (found.n_tail, found.xmin) == (10, values.min())
    assert found.exponent == pytest.approx(1 + 1 / np.mean(np.log(values / values.min())))


def test_the_body_is_left_out() -> None:
    found = clauset(sample(5, 2.5, 400, body=400))
    assert 0.9 < found.xmin < 2
    assert found.n_tail <= 420
    assert abs(found.exponent - 2.5) < 4 * found.stderr


@given(scale=st.floats(1e-6, 1e6))
@settings(max_examples=10, deadline=None)
def test_scale_changes_xmin_alone(scale: float) -> None:
    values = sample(1, 3.0, 100)
    one, other = clauset(values), clauset(scale * values)
    assert other.exponent == pytest.approx(one.exponent, rel=1e-9)
    assert other.xmin == pytest.approx(scale * one.xmin, rel=1e-9)
    assert other.n_tail == one.n_tail


def test_what_has_no_tail() -> None:
    for values in ([], np.ones(50), np.arange(1.0, 10), [np.nan, -1.0] * 20):
        found = clauset(values)
        assert np.isnan([found.exponent, found.xmin, found.distance, found.stderr]).all()
        assert found.n_tail == 0
    repeated = clauset(np.repeat(sample(2, 3.0, 30), 2))
    assert repeated.n_tail >= 10
    assert repeated.n_tail % 2 == 0  # equal values go together
    mostly = clauset(np.concatenate([np.full(30, 5.0), [1.0]]))  # all of the tail is one value
    assert np.isfinite(mostly.exponent)
