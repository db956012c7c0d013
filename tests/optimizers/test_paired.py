"""Two optimizers as one: each steps its own groups, and a user sees one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from contract import same
from torch import Tensor, nn

from optimizers import Muon
from optimizers.paired import Paired
from optimizers.partition import hidden_matrices

ADAMW = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0)
SGD = partial(torch.optim.SGD, momentum=0.9)
TORCH_MUON = partial(torch.optim.Muon, weight_decay=0.01, adjust_lr_fn="original")
# torch's runs in bfloat16 everywhere.
CLOSE = {"rtol": 0.03, "atol": 0.02 * 0.03}


def steps(optimizer: torch.optim.Optimizer, model: nn.Module, count: int, seed: int = 0) -> None:
    stream = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for param in model.parameters():
            param.grad = torch.randn(param.shape, generator=stream).to(param)
        optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in model.named_parameters()}


@pytest.fixture
def model(conv_net: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return conv_net()


def pair(model: nn.Module, lr: float = 0.02, **options: Any) -> Paired:
    options = {"matrix": SGD, "other": ADAMW, **options}
    return Paired(hidden_matrices(model), lr, **options)


def test_each_group_is_stepped_by_its_own(model: nn.Module) -> None:
    expected = copy.deepcopy(model)
    matrix, other = hidden_matrices(expected)
    alone = [SGD([matrix], lr=0.05), ADAMW([other])]
    for optimizer in alone:
        steps(optimizer, expected, 3)
    steps(pair(model, lr=0.05), model, 3)
    assert same(weights(model), weights(expected))


def test_torch_muon_on_flattened_convolutions_is_our_muon(model: nn.Module) -> None:
    ours, theirs = copy.deepcopy(model), model
    steps(Muon(hidden_matrices(ours), 0.02, weight_decay=0.01), ours, 4)
    optimizer = pair(theirs, matrix=TORCH_MUON, flatten=True)
    steps(optimizer, theirs, 4)
    for name, weight in weights(ours).items():
        torch.testing.assert_close(weights(theirs)[name], weight, **CLOSE)
    assert theirs.conv1.weight.shape == (4, 2, 3, 3)
    assert theirs.conv1.weight.grad.shape == (4, 2, 3, 3)
    assert optimizer.state[theirs.conv1.weight]["momentum_buffer"].shape == (4, 18)


def test_without_flattening_torch_muon_refuses_convolutions(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="only supports 2D"):
        pair(model, matrix=TORCH_MUON)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_flattening_leaves_weight_and_gradient_in_place(
    model: nn.Module, memory_format: torch.memory_format
) -> None:
    model.to(memory_format=memory_format)
    optimizer = pair(model, matrix=TORCH_MUON, flatten=True)
    weight = model.conv1.weight
    place, before = weight.data_ptr(), weight.detach().clone()
    gradient = torch.randn_like(weight)
    weight.grad = gradient
    optimizer.step()
    assert weight.data_ptr() == place
    assert weight.grad is gradient
    assert weight.is_contiguous(memory_format=memory_format)
    assert not torch.equal(weight, before)


def test_a_failing_step_leaves_shapes_as_they_were(model: nn.Module) -> None:
    class Broken(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            assert all(param.ndim == 2 for param in self.param_groups[0]["params"])
            raise RuntimeError("no")

    optimizer = pair(model, matrix=Broken, flatten=True)
    shapes = {name: param.shape for name, param in model.named_parameters()}
    with pytest.raises(RuntimeError, match="no"):
        steps(optimizer, model, 1)
    assert {name: param.shape for name, param in model.named_parameters()} == shapes


def test_a_groups_own_rate_comes_first(model: nn.Module) -> None:
    groups = hidden_matrices(model)
    groups[0]["lr"] = 0.7
    optimizer = Paired(groups, 0.1, matrix=SGD, other=ADAMW)
    assert optimizer.param_groups[0]["lr"] == 0.7
    assert "lr" not in set(hidden_matrices(model)[0])


def test_a_state_of_other_groups_is_refused(model: nn.Module) -> None:
    optimizer = pair(model)
    saved = optimizer.state_dict()
    saved["param_groups"] = saved["param_groups"][::-1]
    with pytest.raises(ValueError, match="not those of this optimizer"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_goes_on_by_itself(model: nn.Module, how: Callable[[Any], Any]) -> None:
    optimizer = pair(model)
    steps(optimizer, model, 2)
    other, copied = how((model, optimizer))
    before = weights(model)
    steps(copied, other, 2, seed=1)
    assert same(weights(model), before)
    steps(optimizer, model, 2, seed=1)
    assert same(weights(model), weights(other))


def test_groups_keep_the_order_in_which_they_came(model: nn.Module) -> None:
    matrix, other = hidden_matrices(model)
    optimizer = Paired([other], 0.3, matrix=SGD, other=ADAMW)
    optimizer.add_param_group(matrix)
    late = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [("late", late)], "algorithm": "adamw", "lr": 0.1})
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 0.3, 0.1]
    late.grad = torch.ones(3)
    steps(optimizer, model, 1)
    assert (late < 1).all()
    again = Paired([other], 0.3, matrix=SGD, other=ADAMW)
    again.add_param_group(matrix)
    again.add_param_group({"params": [("late", late)], "algorithm": "adamw"})
    again.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in again.param_groups] == [1e-3, 0.3, 0.1]
    assert len(again.state) == len(list(model.parameters())) + 1


def test_a_network_without_hidden_matrices(make_problem: Any) -> None:
    head = nn.Linear(3, 2)
    optimizer = pair(head)
    before = head.weight.detach().clone()
    steps(optimizer, head, 1)
    assert not torch.equal(head.weight, before)


def test_what_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="lr must be >= 0"):
        pair(model, lr=-1.0)
    with pytest.raises(ValueError, match=r"partition\.hidden_matrices"):
        Paired(model.parameters(), matrix=SGD, other=ADAMW)
    group = hidden_matrices(model)[0]
    twice = [group, {**group, "algorithm": "adamw"}]
    with pytest.raises(ValueError, match="more than one parameter group"):
        Paired(twice, matrix=SGD, other=ADAMW)
    with pytest.raises(TypeError, match="ordered"):
        Paired([{"params": set(), "algorithm": "adamw"}], matrix=SGD, other=ADAMW)
