from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from optimizers import ScalarSpectralAdam
from optimizers.partition import by_layer
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


@pytest.mark.parametrize(("mode", "sign"), [("spectral", 1), ("inverse", -1)])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 1.5])
def test_rates_are_the_formula(
    mode: str, sign: int, beta: float, exponents: Path, conv_net: type[nn.Module]
) -> None:
    optimizer = ScalarSpectralAdam(
        by_layer(conv_net()), lr=0.02, exponents=exponents, beta=beta, mode=mode
    )
    expected = {layer: 0.02 * (s / 3) ** (sign * beta) for layer, s in S.items()}
    assert rates(optimizer) == pytest.approx({**expected, "norm": 0.02, "": 0.02})
    assert [group["lr_factor"] * 0.02 for group in optimizer.param_groups] == pytest.approx(
        list(rates(optimizer).values())
    )


def test_the_steps_are_adams_at_those_rates(exponents: Path, conv_net: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, twin = conv_net(), conv_net()
    twin.load_state_dict(model.state_dict())
    options: dict[str, Any] = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.01}
    ours = ScalarSpectralAdam(by_layer(model), lr=0.02, exponents=exponents, **options)
    factors = {**{layer: s / 3 for layer, s in S.items()}, "norm": 1.0, "": 1.0}
    groups = [{**group, "lr": 0.02 * factors[group["layer"]]} for group in by_layer(twin)]
    theirs = torch.optim.Adam(groups, **options)
    inputs = torch.randn(4, 2, 6, 6)
    for _ in range(3):
        for net, optimizer in ((model, ours), (twin, theirs)):
            optimizer.zero_grad()
            net(inputs).square().mean().backward()
            optimizer.step()
    for mine, reference in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-7)


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


@given(
    values=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8),
    beta=st.floats(0.0, 2.0),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_factor_invariants(values: list[float], beta: float, seed: int) -> None:
    s = {str(i): value for i, value in enumerate(values)}
    spectral, inverse, random = (
        layer_factors(s, beta, mode, seed) for mode in ("spectral", "inverse", "random")
    )
    for layer in s:
        assert spectral[layer] * inverse[layer] == pytest.approx(1.0)
        assert min(spectral.values()) * (1 - 1e-9) <= random[layer]
        assert random[layer] <= max(spectral.values()) * (1 + 1e-9)
    rescaled = layer_factors({layer: 10 * value for layer, value in s.items()}, beta, "spectral", 0)
    assert rescaled == pytest.approx(spectral)
    order = sorted(s, key=lambda layer: s[layer])
    sorted_factors = [spectral[layer] for layer in order]
    assert sorted_factors == pytest.approx(sorted(sorted_factors))
    assert layer_factors({}, beta, "random", seed) == {}


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
    ("name", "value"),
    [
        ("lr", -1.0),
        ("beta", -0.5),
        ("beta", math.nan),
        ("mode", "shuffled"),
        ("eps", 0.0),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("betas", (0.9,)),
    ],
)
def test_bad_hyperparameters_are_refused_by_name(
    name: str, value: Any, exponents: Path, conv_net: type[nn.Module]
) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        ScalarSpectralAdam(by_layer(conv_net()), exponents=exponents, **{name: value})
