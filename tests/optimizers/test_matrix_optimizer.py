"""The base, tested through the plainest optimizer it can have: momentum SGD on the matrices."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers.matrix_optimizer import MatrixOptimizer, MatrixStack, Params
from optimizers.partition import hidden_matrices


class MomentumSGD(MatrixOptimizer):
    def __init__(self, params: Params, **hyperparameters: Any) -> None:
        defaults: dict[str, Any] = {
            "lr": 0.1,
            "momentum": 0.5,
            "nesterov": False,
            "weight_decay": 0.0,
            "compile": False,
            "adamw_lr": 1e-2,
            "adamw_betas": (0.9, 0.99),
            "adamw_eps": 1e-8,
            "adamw_weight_decay": 0.1,
        }
        super().__init__(params, {**defaults, **hyperparameters})

    def keys(self, group: dict[str, Any]) -> Sequence[Any]:
        return group.get("keys", super().keys(group))

    @staticmethod
    def directions(stacks: Sequence[MatrixStack], group: dict[str, Any], plan: Any) -> list[Tensor]:
        return [stack.momentum for stack in stacks]


def parameter(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(shape, generator=generator).to(dtype))


def give_gradient(params: list[nn.Parameter], seed: int) -> None:
    for i, param in enumerate(params):
        param.grad = parameter(*param.shape, seed=100 * seed + i, dtype=param.dtype).detach()


def test_vectors_are_stepped_exactly_as_torchs_adamw() -> None:
    ours = [parameter(4), parameter(), parameter(2, seed=1)]
    theirs = copy.deepcopy(ours)
    optimizer = MomentumSGD(ours, adamw_lr=0.03, adamw_betas=(0.8, 0.9), adamw_weight_decay=0.2)
    reference = torch.optim.AdamW(theirs, lr=0.03, betas=(0.8, 0.9), weight_decay=0.2)
    for step in range(5):
        give_gradient(ours, step)
        give_gradient(theirs, step)
        optimizer.step()
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all("momentum_buffer" not in optimizer.state[param] for param in ours)


def test_plain_parameters_are_split_by_dimensions() -> None:
    params = [parameter(3), parameter(2, 3), parameter(2, 3, 4), parameter()]
    optimizer = MomentumSGD(params)
    groups = optimizer.param_groups
    assert [group["algorithm"] for group in groups] == ["matrix", "adamw"]
    assert [param.ndim for group in groups for param in group["params"]] == [2, 3, 1, 0]
    assert [group["lr"] for group in groups] == [0.1, 1e-2]
    assert [group["weight_decay"] for group in groups] == [0.0, 0.1]


def test_named_parameters_keep_their_names() -> None:
    model = nn.Linear(2, 3)
    optimizer = MomentumSGD(model.named_parameters())
    assert [group["param_names"] for group in optimizer.param_groups] == [["weight"], ["bias"]]


def test_groups_with_an_algorithm_are_kept(conv_net: type[nn.Module]) -> None:
    given = hidden_matrices(conv_net())
    given[1]["lr"] = 0.5
    optimizer = MomentumSGD(given)
    matrix, adamw = optimizer.param_groups
    assert len(matrix["params"]) == 3
    assert adamw["lr"] == 0.5
    assert "lr" not in given[0]  # the caller's groups are not written to


def test_a_groups_own_rates_without_an_algorithm_are_the_matrices() -> None:
    params = [parameter(2, 2), parameter(2)]
    optimizer = MomentumSGD([{"params": params, "lr": 0.9, "weight_decay": 0.8, "adamw_lr": 0.7}])
    matrix, adamw = optimizer.param_groups
    assert (matrix["lr"], matrix["weight_decay"]) == (0.9, 0.8)
    assert (adamw["lr"], adamw["weight_decay"]) == (0.7, 0.1)


def test_a_matrix_can_be_given_to_adamw_but_no_vector_to_matrix() -> None:
    weight = parameter(2, 2)
    optimizer = MomentumSGD([{"params": [weight], "algorithm": "adamw"}])
    give_gradient([weight], 0)
    optimizer.step()
    assert "exp_avg" in optimizer.state[weight]
    with pytest.raises(ValueError, match=r"shape \(3,\) cannot have algorithm 'matrix'"):
        MomentumSGD([{"params": [parameter(3)], "algorithm": "matrix"}])
    with pytest.raises(ValueError, match="algorithm must be one of matrix, adamw; got 'sgd'"):
        MomentumSGD([{"params": [parameter(3)], "algorithm": "sgd"}])


def test_batches_hold_equal_shapes_dtypes_and_keys_apart() -> None:
    seen: list[tuple[tuple[int, ...], Any]] = []

    class Recording(MomentumSGD):
        @staticmethod
        def directions(
            stacks: Sequence[MatrixStack], group: dict[str, Any], plan: Any
        ) -> list[Tensor]:
            seen[:] = [(tuple(stack.momentum.shape), stack.key) for stack in stacks]
            return MomentumSGD.directions(stacks, group, plan)

    params = [
        parameter(4, 2, 3),
        parameter(4, 6),
        parameter(6, 4),
        parameter(4, 6, dtype=torch.float64),
        parameter(4, 6),
        parameter(4, 6),
    ]
    optimizer = Recording(params)
    give_gradient(params[:5], 0)  # the last has none
    optimizer.step()
    assert seen == [((3, 4, 6), None), ((1, 6, 4), None), ((1, 4, 6), None)]
    optimizer.param_groups[0]["keys"] = [1, 1, 1, 1, 2, 2]
    optimizer.step()
    expected = [((2, 4, 6), 1), ((1, 6, 4), 1), ((1, 4, 6), 1), ((1, 4, 6), 2)]
    assert seen == expected
    give_gradient(params, 1)  # now all have one
    optimizer.step()
    assert seen[-1] == ((2, 4, 6), 2)


@pytest.mark.parametrize("nesterov", [False, True])
def test_what_is_done_to_the_momentum_leaves_the_buffers_alone(nesterov: bool) -> None:
    class Overwriting(MomentumSGD):
        @staticmethod
        def directions(
            stacks: Sequence[MatrixStack], group: dict[str, Any], plan: Any
        ) -> list[Tensor]:
            return [stack.momentum.fill_(math.pi) for stack in stacks]

    for dtype in (torch.bfloat16, torch.float32):
        weight = parameter(2, 3, dtype=dtype)
        give_gradient([weight], 0)
        assert weight.grad is not None
        grad = weight.grad.clone()
        optimizer = Overwriting([weight], nesterov=nesterov)
        optimizer.step()
        torch.testing.assert_close(optimizer.state[weight]["momentum_buffer"], 0.5 * grad)
        assert torch.equal(weight.grad, grad)


def test_added_groups_are_stepped_and_a_refused_one_leaves_no_trace() -> None:
    first, second = parameter(2, 2), parameter(3, 2)
    optimizer = MomentumSGD([first])
    with pytest.raises(ValueError, match="momentum must be in"):
        optimizer.add_param_group({"params": [second], "momentum": 1.0})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": second, "lr": 0.0})
    give_gradient([first, second], 0)
    before = second.detach().clone()
    optimizer.step()
    assert torch.equal(second, before)
    optimizer.param_groups[1]["lr"] = 1.0
    optimizer.step()
    assert not torch.equal(second, before)
    with pytest.raises(TypeError, match="ordered"):
        optimizer.add_param_group({"params": {parameter(2, 2)}})


def test_schedulers_scale_every_groups_lr() -> None:
    params = [parameter(2, 2), parameter(2)]
    optimizer = MomentumSGD(params)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = [param.detach().clone() for param in params]
    give_gradient(params, 0)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    scheduler.lr_lambdas = [lambda step: 0.5, lambda step: 0.5]
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.005]
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=5)


def test_a_copied_optimizer_steps_alike() -> None:
    params = [parameter(2, 2), parameter(2)]
    optimizer = MomentumSGD(params)
    give_gradient(params, 0)
    optimizer.step()
    twin_params, twin = copy.deepcopy((params, optimizer))
    give_gradient(params, 1)
    give_gradient(twin_params, 1)
    optimizer.step()
    twin.step()
    assert all(torch.equal(a, b) for a, b in zip(params, twin_params, strict=True))


def test_sparse_and_complex_are_refused() -> None:
    for sparse_algorithm in ("matrix", "adamw"):
        table = nn.Embedding(4, 3, sparse=True)
        optimizer = MomentumSGD([{"params": [table.weight], "algorithm": sparse_algorithm}])
        table(torch.tensor([1, 2])).sum().backward()
        with pytest.raises(RuntimeError, match="MomentumSGD does not support sparse gradients"):
            optimizer.step()
    with pytest.raises(ValueError, match="complex"):
        MomentumSGD([nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))])


def test_nothing_to_optimize_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        MomentumSGD([])
    with pytest.raises(TypeError):
        MomentumSGD(["weights"])  # type: ignore[list-item]


def test_a_process_has_any_number_of_compiled_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile gives up after 8 versions of one code object; those alike share theirs."""
    traced = []

    def backend(graph: Any, inputs: Any) -> Any:  # torch.compile's front end alone: seconds less
        traced.append(graph)
        return graph.forward

    compile = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda step, fullgraph, dynamic, options: compile(
            step, fullgraph=fullgraph, dynamic=dynamic, backend=backend
        ),
    )
    torch.compiler.reset()
    pairs = []
    for momentum in [0.04 * i for i in range(9)] * 2:
        ours = [parameter(3, 2)]
        pairs.append((ours, copy.deepcopy(ours), momentum))
    compiled = [MomentumSGD(ours, momentum=mu, compile=True) for ours, _, mu in pairs]
    launched = [MomentumSGD(theirs, momentum=mu) for _, theirs, mu in pairs]
    for step in range(2):
        for optimizers, side in ((compiled, 0), (launched, 1)):
            for optimizer, pair in zip(optimizers, pairs, strict=True):
                give_gradient(pair[side], seed=step)
                optimizer.step()
    assert len(traced) == 9
    for ours, theirs, _ in pairs:
        torch.testing.assert_close(ours[0], theirs[0])
