"""What every optimizer shipped in conf/optimizer must do, torch's own included."""

from __future__ import annotations

import copy
import inspect
import io
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import FILES, components, equal, same, train
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import nn

from optimizers.partition import hidden_matrices

# Where a step is as large as its gradient (the first Shampoo: of a parameter without dimensions).
UNBOUNDED = ("sgd", "sgd_over_damping", "shampoo_original")

Build = Callable[..., torch.optim.Optimizer]


def test_there_are_files_and_each_says_what_it_is() -> None:
    ours = {"muon", "spectral_newton", "spectral_newton_paper", "scalar_spectral_adam", "kfac"}
    theirs = {"sgd", "adam", "adamw", "nadam", "lion", "soap", "shampoo", "psgd_kron"}
    controls = {"sgd_over_damping", "muon_scrambled", "torch_muon", "schedule_free_adamw"}
    assert ours | theirs | controls <= {file.stem for file in FILES}
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
    optimizer, goal = build(problem.model), 0.75 * problem.loss().item()
    assert any(min(train(problem, optimizer, 5)) < goal for _ in range(20))


def test_two_runs_are_the_same(build: Build, conv_problem: Any) -> None:
    losses, weights = [], []
    for _ in range(2):
        problem = conv_problem()
        optimizer = build(problem.model)
        torch.manual_seed(1)  # for optimizers that draw from torch's state, as a run seeds it
        losses.append(train(problem, optimizer, 4))
        weights.append(problem.weights())
    assert losses[0] == losses[1]
    assert same(*weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_continues_bit_for_bit(
    build: Build, make_problem: Any, dtype: torch.dtype, file: Path
) -> None:
    if file.stem == "nadam" and dtype == torch.bfloat16:
        pytest.skip("torch's NAdam loads its float32 mu_product in the dtype of the weights")
    problem = make_problem(dtype)
    optimizer = build(problem.model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    train(problem, optimizer, 2)
    scheduler.step()
    stream, random_state = io.BytesIO(), torch.get_rng_state()
    torch.save({"model": problem.model.state_dict(), "optimizer": optimizer.state_dict()}, stream)
    train(problem, optimizer, 2)

    resumed = make_problem(dtype)
    fresh = build(resumed.model)
    stream.seek(0)
    saved = torch.load(stream, weights_only=True)
    resumed.model.load_state_dict(saved["model"])
    fresh.load_state_dict(copy.deepcopy(saved["optimizer"]))
    assert repr(fresh.state_dict()) == repr(saved["optimizer"])
    torch.set_rng_state(random_state)  # a checkpoint holds it
    train(resumed, fresh, 2)
    assert same(problem.weights(), resumed.weights())
    assert equal(optimizer.state_dict(), fresh.state_dict())


def test_parameters_without_a_gradient_are_left_alone(build: Build, make_problem: Any) -> None:
    problem = make_problem()
    optimizer = build(problem.model)
    problem.gradients()
    params = dict(problem.model.named_parameters())
    without = random.Random(0).sample(sorted(params), len(params) // 2)
    for name in without:
        params[name].grad = None
    before = problem.weights()
    for _ in range(2):  # the first step of SOAP only looks at the gradient
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
    if file.stem in UNBOUNDED and size > 1:
        pytest.skip("its step is as large as the gradient")
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
    optimizer, goal = build(problem.model), 0.95 * problem.loss().item()
    assert any(min(train(problem, optimizer, 5)) < goal for _ in range(16))
    assert all(weight.dtype == torch.bfloat16 for weight in problem.weights().values())


def test_frozen_parameters_are_left_alone(build: Build, make_problem: Any) -> None:
    problem = make_problem()
    frozen = [name for name, _ in problem.model.named_parameters()][::2]
    for name in frozen:
        problem.model.get_parameter(name).requires_grad_(False)
    before = problem.weights()
    train(problem, build(problem.model), 3)
    for name, weight in problem.weights().items():
        assert torch.equal(weight, before[name]) == (name in frozen), name


def test_the_memory_format_of_weights_changes_nothing(
    build: Build, conv_problem: Callable[..., Any], file: Path
) -> None:
    if file.stem == "psgd_kron":
        pytest.skip("it draws noise for a weight in the order of memory")
    weights = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        problem = conv_problem()
        problem.model.to(memory_format=memory_format)
        optimizer = build(problem.model)
        torch.manual_seed(1)
        for _ in range(3):
            for param in problem.model.parameters():
                grad = 0.1 * torch.randn(param.shape)
                param.grad = grad.to(memory_format=memory_format) if param.ndim == 4 else grad
            optimizer.step()
        weights.append(problem.weights())
        assert problem.model.conv1.weight.is_contiguous(memory_format=memory_format)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-4, atol=1e-5)


def test_a_copy_of_the_network_does_not_disturb(build: Build, conv_problem: Any) -> None:
    """A measurement in the middle of a run works on one."""
    weights = []
    for measured in (False, True):
        problem = conv_problem()
        optimizer = build(problem.model)
        torch.manual_seed(1)
        train(problem, optimizer, 2)
        if measured:
            other = copy.copy(problem)
            other.model = copy.deepcopy(problem.model)
            other.inputs = problem.inputs.flip(0)
            other.gradients()
        train(problem, optimizer, 2)
        weights.append(problem.weights())
    assert same(*weights)


def test_a_zero_learning_rate_in_every_group_stops_everything(
    build: Build, conv_problem: Any
) -> None:
    problem = conv_problem()
    optimizer = build(problem.model)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = problem.weights()
    train(problem, optimizer, 2)
    assert same(before, problem.weights())


def test_a_closure_is_evaluated(build: Build, conv_problem: Any) -> None:
    problem = conv_problem()
    optimizer = build(problem.model)

    def closure() -> torch.Tensor:
        problem.gradients()
        return problem.loss()

    first = optimizer.step(closure)
    assert first.item() == pytest.approx(conv_problem().loss().item())
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
    "spectrum": ["rainbow"],
    "decay": [1.0, -0.1],
    "kl_clip": [0.0],
    "factor_every": [0],
    "inverse_every": [0],
    "reduction": ["max"],
}


def test_impossible_hyperparameters_are_refused_by_name(
    build: Build, conv_problem: Any, file: Path
) -> None:
    model = conv_problem().model
    tried = 0
    for place, component in components(file):
        if place == "params.":
            continue
        target = get_class(component["_target_"])
        ours = target.__module__.startswith("optimizers")
        accepted = inspect.signature(target.__init__).parameters
        for name, values in BAD.items():
            optional = name == "exponents" and "fallback_alpha" in accepted
            if name not in accepted or optional:
                continue
            if not ours and name not in ("lr", "weight_decay"):
                continue
            if name == "lr" and place == "matrix.":  # Paired's own lr is the matrices'
                continue
            for value in values:
                named = name if ours else "(?i)learning rate|lr|weight.decay"
                with pytest.raises(Exception, match=named) as error:
                    build(model, **{f"{place}{name}": value})
                cause = error.value.__cause__ or error.value
                assert isinstance(cause, ValueError) or not ours, (place, name, value)
                tried += 1
    assert tried >= 2


def test_values_are_finite_numbers_or_plain_containers(build: Build, conv_problem: Any) -> None:
    """Nothing of Hydra's may be left in the state, or a checkpoint would not load."""
    plain = (int, float, str, type(None), list, tuple, dict)
    for group in build(conv_problem().model).state_dict()["param_groups"]:
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
