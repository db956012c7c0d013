"""What every optimizer shipped in conf/optimizer must do, torch's own included."""

from __future__ import annotations

import copy
import inspect
import io
import math
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import nn

from optimizers.partition import hidden_matrices, weight_layers

FILES = sorted((Path(__file__).parents[2] / "conf" / "optimizer").glob("*.yaml"))

Build = Callable[..., torch.optim.Optimizer]


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def build(file: Path, write_exponents: Callable[..., Path]) -> Build:
    """Build the file's optimizer for a model, as a run does; ``changes`` override its values."""

    def build_for(model: nn.Module, **changes: Any) -> torch.optim.Optimizer:
        rows = [
            {"layer": layer, "alpha": 1.0 + 0.25 * i}
            for i, layer in enumerate(weight_layers(model))
        ]
        config = OmegaConf.create({"exponents": str(write_exponents(rows))})
        config.optimizer = OmegaConf.load(file)
        chosen = config.optimizer
        OmegaConf.resolve(config)
        params = chosen.pop("params", None)
        groups = model.parameters() if params is None else instantiate(params)(model)
        with warnings.catch_warnings():  # attention's stacked weight has no measured exponent
            warnings.filterwarnings("ignore", message=".*no usable s.*")
            return instantiate(chosen, **changes)(groups)

    return build_for


def train(problem: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        problem.gradients()
        optimizer.step()
        losses.append(problem.loss().item())
    return losses


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_there_are_files_and_each_says_what_it_is() -> None:
    expected = {"adamw", "sgd", "muon", "spectral_newton", "spectral_newton_paper"}
    assert expected | {"scalar_spectral_adam"} <= {file.stem for file in FILES}
    for file in FILES:
        first, second = file.read_text().splitlines()[:2]
        assert first.startswith("# "), file.name
        assert len(first) <= 100
        assert second.startswith("_target_: "), file.name


def test_every_trainable_parameter_is_in_exactly_one_group(build: Build, make_problem: Any) -> None:
    model = make_problem().model
    optimizer = build(model)
    placed = [id(param) for group in optimizer.param_groups for param in group["params"]]
    assert sorted(placed) == sorted(id(param) for param in model.parameters())


def test_learns_a_small_problem(build: Build, make_problem: Any) -> None:
    problem = make_problem()
    before = problem.loss().item()
    losses = train(problem, build(problem.model), 60)
    assert losses[-1] < 0.7 * before


def test_two_runs_are_the_same(build: Build, make_problem: Any) -> None:
    first, second = make_problem(), make_problem()
    assert train(first, build(first.model), 4) == train(second, build(second.model), 4)
    assert same(first.weights(), second.weights())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_continues_bit_for_bit(
    build: Build, make_problem: Any, dtype: torch.dtype
) -> None:
    problem = make_problem(dtype)
    optimizer = build(problem.model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    train(problem, optimizer, 3)
    scheduler.step()
    file = io.BytesIO()
    torch.save({"model": problem.model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(problem, optimizer, 3)

    resumed = make_problem(dtype)
    fresh = build(resumed.model)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed.model.load_state_dict(saved["model"])
    fresh.load_state_dict(copy.deepcopy(saved["optimizer"]))
    assert repr(fresh.state_dict()) == repr(saved["optimizer"])
    train(resumed, fresh, 3)
    assert same(problem.weights(), resumed.weights())
    ours, theirs = optimizer.state_dict(), fresh.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for index, state in ours["state"].items():
        assert same(state, theirs["state"][index])


def test_parameters_without_a_gradient_are_left_alone(build: Build, make_problem: Any) -> None:
    problem = make_problem()
    optimizer = build(problem.model)
    problem.gradients()
    params = dict(problem.model.named_parameters())
    without = random.Random(0).sample(sorted(params), len(params) // 2)
    for name in without:
        params[name].grad = None
    before = problem.weights()
    optimizer.step()
    after = problem.weights()
    for name, param in params.items():
        assert torch.equal(before[name], after[name]) == (name in without), name
        assert (param in optimizer.state) == (name not in without), name


def test_zero_gradients_give_finite_weights(build: Build, make_problem: Any) -> None:
    problem = make_problem()
    optimizer = build(problem.model)
    before = problem.weights()
    for param in problem.model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    for name, weight in problem.weights().items():
        assert weight.isfinite().all()
        # Nothing but weight decay can move a weight then.
        assert ((weight - before[name]).abs() <= 0.01 * before[name].abs()).all()


@pytest.mark.parametrize("size", [1e-30, 1e15])
def test_extreme_gradients_give_finite_weights(
    build: Build, make_problem: Any, size: float, file: Path
) -> None:
    if file.stem == "sgd" and size > 1:
        pytest.skip("SGD's step is as large as its gradient")
    problem = make_problem()
    optimizer = build(problem.model)
    for _ in range(2):
        for param in problem.model.parameters():
            param.grad = size * torch.randn_like(param)
        optimizer.step()
    assert all(weight.isfinite().all() for weight in problem.weights().values())
    assert all(weight.abs().max() < 1e3 for weight in problem.weights().values())


def test_bfloat16_parameters_learn_and_keep_their_dtype(build: Build, make_problem: Any) -> None:
    problem = make_problem(torch.bfloat16)
    before = problem.loss().item()
    optimizer = build(problem.model)
    assert train(problem, optimizer, 30)[-1] < 0.9 * before
    assert all(weight.dtype == torch.bfloat16 for weight in problem.weights().values())


def test_a_zero_learning_rate_in_every_group_stops_everything(
    build: Build, make_problem: Any
) -> None:
    problem = make_problem()
    optimizer = build(problem.model)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = problem.weights()
    train(problem, optimizer, 2)
    assert same(before, problem.weights())


def test_a_closure_is_evaluated(build: Build, make_problem: Any) -> None:
    problem = make_problem()
    optimizer = build(problem.model)

    def closure() -> torch.Tensor:
        problem.gradients()
        return problem.loss()

    first = optimizer.step(closure)
    assert first.item() == pytest.approx(make_problem().loss().item())
    optimizer.zero_grad()
    assert all(param.grad is None for param in problem.model.parameters())


BAD = {
    "lr": [-0.1],
    "momentum": [-0.1, 1.0],
    "weight_decay": [-0.1],
    "alpha": [0.0, -1.0, "steepest"],
    "damping": [0.0, -0.1],
    "normalize": ["max"],
    "scale": ["huge"],
    "method": ["magic"],
    "ns_steps": [0],
    "beta": [-1.0],
    "mode": ["wrong"],
    "exponents": [None],
    "adamw_lr": [-1.0],
    "adamw_betas": [[0.9, 1.0]],
    "adamw_eps": [0.0],
    "adamw_weight_decay": [-1.0],
    "fallback_alpha": [0.0],
}


def test_impossible_hyperparameters_are_refused_by_name(
    build: Build, make_problem: Any, file: Path
) -> None:
    model = make_problem().model
    target = get_class(OmegaConf.load(file)._target_)
    ours = target.__module__.startswith("optimizers")
    accepted = inspect.signature(target.__init__).parameters
    tried = 0
    for name, values in BAD.items():
        optional = name == "exponents" and "fallback_alpha" in accepted
        if name not in accepted or optional or (not ours and name not in ("lr", "weight_decay")):
            continue
        for value in values:
            with pytest.raises(Exception, match=name if ours else "(?i)invalid") as error:
                build(model, **{name: value})
            assert isinstance(error.value.__cause__ or error.value, ValueError)
            tried += 1
    assert tried >= 2


def test_values_are_finite_numbers_or_plain_containers(build: Build, make_problem: Any) -> None:
    """Nothing of Hydra's may be left in the state, or a checkpoint would not load."""
    plain = (int, float, str, type(None), list, tuple, dict)
    for group in build(make_problem().model).state_dict()["param_groups"]:
        for key, value in group.items():
            assert type(value) in (*plain, bool), (key, type(value))
            assert not isinstance(value, float) or math.isfinite(value)


def test_a_mapping_from_a_config_becomes_a_plain_one(conv_net: type[nn.Module]) -> None:
    config = OmegaConf.create(
        {
            "_target_": "optimizers.SpectralNewton",
            "_partial_": True,
            "alpha": {"conv": 2.0, "default": 1.0},
            "adamw_betas": [0.9, 0.95],
        }
    )
    optimizer = instantiate(config)(hidden_matrices(conv_net()))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    groups = torch.load(file, weights_only=True)["param_groups"]
    assert groups[0]["alpha"] == {"conv": 2.0, "default": 1.0}
    assert groups[0]["alphas"] == [2.0, 2.0, 1.0]
    assert groups[1]["adamw_betas"] == (0.9, 0.95)
