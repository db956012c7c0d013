from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from optimizers import ScalarSpectralAdam
from optimizers.partition import by_layer
from optimizers.reference import scalar_spectral_factors
from optimizers.scalar_spectral_adam import layer_factors

S = {"conv1": 1.0, "conv2": 2.0, "hidden": 4.0, "head": 5.0}  # the mean is 3


@pytest.fixture
def exponents(write_exponents: Callable[..., Path]) -> Path:
    # s itself is left at another value: the rule takes alpha gamma.
    return write_exponents(
        [{"layer": layer, "alpha": 0.5, "gamma": 2 * s, "s": 99.0} for layer, s in S.items()]
    )


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    return {group["layer"]: group["lr"] for group in optimizer.param_groups}


@pytest.mark.parametrize("mode", ["spectral", "inverse", "random"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 1.5])
def test_rates_are_those_of_the_plain_rule(
    mode: str, beta: float, exponents: Path, conv_net: type[nn.Module]
) -> None:
    options: dict[str, Any] = {"beta": beta, "mode": mode, "seed": 3}
    optimizer = ScalarSpectralAdam(by_layer(conv_net()), lr=0.02, exponents=exponents, **options)
    factors = {**scalar_spectral_factors(S, **options), "norm": 1.0, "": 1.0}
    assert rates(optimizer) == pytest.approx({layer: 0.02 * f for layer, f in factors.items()})
    found = {group["layer"]: group["lr_factor"] for group in optimizer.param_groups}
    assert found == pytest.approx(factors)


def test_a_groups_own_lr_is_scaled_and_schedulers_keep_the_ratio(
    exponents: Path, conv_net: type[nn.Module]
) -> None:
    groups = by_layer(conv_net())
    groups[1]["lr"] = 1.0
    optimizer = ScalarSpectralAdam(groups, lr=0.3, exponents=exponents)
    assert "lr_factor" not in groups[1]  # the caller's groups are not written to
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert rates(optimizer)["conv1"] == pytest.approx(0.5 / 3)
    assert rates(optimizer)["head"] == pytest.approx(0.25)


def test_named_parameters_do_as_well(exponents: Path, conv_net: type[nn.Module]) -> None:
    model = conv_net()
    with pytest.warns(UserWarning, match="norm"):  # their layer types are not known
        named = ScalarSpectralAdam(model.named_parameters(), lr=0.3, exponents=exponents)
    grouped = ScalarSpectralAdam(by_layer(model), lr=0.3, exponents=exponents)
    assert rates(named) == rates(grouped)
    assert named.param_groups[1]["param_names"] == ["conv1.weight", "conv1.bias"]


@pytest.mark.parametrize(
    "bad", [{"alpha": -1.0}, {"gamma": 0.0}, {"alpha": math.nan}, {"gamma": math.inf}, None]
)
def test_layers_without_a_usable_s_keep_the_global_rate_with_one_warning(
    bad: dict[str, Any] | None, write_exponents: Callable[..., Path], conv_net: type[nn.Module]
) -> None:
    rows: list[dict[str, Any]] = [{"layer": "conv2", "gamma": 1.0}, {"layer": "head", "gamma": 3.0}]
    if bad is not None:
        rows += [{"layer": "conv1", **bad}, {"layer": "hidden", **bad}]
    path = write_exponents(rows)
    with pytest.warns(UserWarning, match=r"for 2 layers, .*: conv1, hidden$") as caught:
        optimizer = ScalarSpectralAdam(by_layer(conv_net()), lr=1.0, exponents=path)
    assert len(caught) == 1
    found = rates(optimizer)
    assert (found["conv1"], found["hidden"]) == (1.0, 1.0)
    assert (found["conv2"], found["head"]) == pytest.approx((2 / 4, 6 / 4))  # mean s of the usable


def test_norms_and_free_parameters_are_not_warned_of(
    exponents: Path, conv_net: type[nn.Module]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ScalarSpectralAdam(by_layer(conv_net()), exponents=exponents)


def test_all_layers_unusable_leaves_plain_adam(
    write_exponents: Callable[..., Path], conv_net: type[nn.Module]
) -> None:
    path = write_exponents([{"layer": "conv1", "alpha": -1.0}])
    with pytest.warns(UserWarning, match="for 4 layers"):
        optimizer = ScalarSpectralAdam(by_layer(conv_net()), lr=0.1, exponents=path)
    assert set(rates(optimizer).values()) == {0.1}


def test_random_is_seeded_log_uniform_noise_of_the_same_spread() -> None:
    s = {f"layer{i}": 1.0 + i for i in range(2000)}
    spectral = layer_factors(s, 0.5, "spectral", 0)
    low, high = (math.log(f(spectral.values())) for f in (min, max))
    first = layer_factors(s, 0.5, "random", 7)
    assert first == layer_factors(s, 0.5, "random", 7)
    assert first != layer_factors(s, 0.5, "random", 8)
    logs = sorted(math.log(factor) for factor in first.values())
    assert low <= logs[0]
    assert logs[-1] <= high
    uniform = [low + (high - low) * (i + 0.5) / len(logs) for i in range(len(logs))]
    distance = max(abs(a - b) for a, b in zip(logs, uniform, strict=True)) / (high - low)
    assert distance < 1.63 / math.sqrt(len(logs))  # Kolmogorov-Smirnov at 1 %


def test_missing_exponents_say_how_to_measure(conv_net: type[nn.Module]) -> None:
    with pytest.raises(ValueError) as error:
        ScalarSpectralAdam(by_layer(conv_net()))
    message = str(error.value)
    assert "\n" not in message
    assert "spectral-bench curvature run=<run folder>" in message
    assert "exponents=<run folder>/exponents.parquet" in message


def test_another_models_exponents_are_refused(
    write_exponents: Callable[..., Path], conv_net: type[nn.Module]
) -> None:
    path = write_exponents([{"layer": "features.0"}])
    with pytest.raises(ValueError, match=r"none of the 1 layers .*'features\.0'.*another model"):
        ScalarSpectralAdam(by_layer(conv_net()), exponents=path)


@pytest.mark.parametrize("params", [[nn.Parameter(torch.ones(2))], [], [{"params": []}]])
def test_unnamed_parameters_are_refused(params: Any, exponents: Path) -> None:
    with pytest.raises(ValueError, match=r"optimizers\.partition\.by_layer"):
        ScalarSpectralAdam(params, exponents=exponents)


@pytest.mark.parametrize(
    ("name", "value"), [("eps", 0.0), ("betas", (0.9, 1.0)), ("betas", (0.9,))]
)
def test_bad_hyperparameters_are_refused_by_name(
    name: str, value: Any, exponents: Path, conv_net: type[nn.Module]
) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        ScalarSpectralAdam(by_layer(conv_net()), exponents=exponents, **{name: value})
