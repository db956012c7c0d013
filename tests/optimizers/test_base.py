"""The step that all optimizers share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optimizers import base
from optimizers.base import ClosureOptimizer
from optimizers.controls import MomentumControl
from optimizers.kfac import KFAC
from optimizers.matrix_optimizer import ADAMW, MatrixOptimizer
from optimizers.muon import Muon
from optimizers.paired import Paired
from optimizers.spectral_newton import SpectralNewton


class Descent(ClosureOptimizer):
    """W <- W - lr G."""

    def update(self) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                if self.has_gradient(param):
                    param.sub_(group["lr"] * param.grad)


def descent(weight: Tensor) -> Descent:
    return Descent([weight], {"lr": 0.5})


def test_the_closure_comes_first_with_autograd_on_and_its_loss_is_returned() -> None:
    weight = torch.tensor([3.0], requires_grad=True)
    optimizer = descent(weight)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0  # type: ignore[arg-type, attr-defined]
    assert weight.item() == 0.0  # 3 - 0.5 * 6: of the gradient that the closure computed
    assert torch.is_grad_enabled()


def test_without_a_closure_there_is_no_loss_and_the_update_is_no_part_of_the_graph() -> None:
    weight = torch.tensor([1.0], requires_grad=True)
    weight.grad = torch.tensor([1.0])
    assert descent(weight).step() is None
    assert weight.item() == 0.5
    assert weight.grad_fn is None


def test_parameters_without_a_gradient_are_not_stepped_and_sparse_ones_refused() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    optimizer = descent(weight)
    optimizer.step()
    assert (weight == 1).all()
    weight.grad = torch.zeros(2, 2).to_sparse()
    with pytest.raises(RuntimeError, match="Descent does not support sparse gradients"):
        optimizer.step()


def test_torchs_step_hooks_run_around_it() -> None:
    weight = torch.ones(1, requires_grad=True)
    optimizer, seen = descent(weight), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.step()
    assert seen == ["before", "after"]


@pytest.mark.parametrize("kind", [MatrixOptimizer, MomentumControl, KFAC, Paired])
def test_every_optimizer_with_an_update_of_its_own_has_this_step(kind: type) -> None:
    assert issubclass(kind, ClosureOptimizer)
    assert "step" not in vars(kind) or hasattr(vars(kind)["step"], "hooked")


@pytest.mark.parametrize("kind", [Muon, SpectralNewton])
def test_the_adamw_part_has_the_same_defaults_everywhere(kind: type) -> None:
    optimizer = kind([torch.ones(2, 2, requires_grad=True)])
    assert ADAMW._asdict().items() <= optimizer.defaults.items()


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (base.not_negative, [0, 0.0, 3.5], [-1e-9, math.inf, math.nan, "1", None, True]),
        (base.positive, [1e-12, 2], [0, -1, math.nan, math.inf, "x", False]),
        (base.fraction, [0, 0.95], [1, 1.0, -0.1, math.nan, None]),
        (base.whole, [1, 5], [0, -1, 2.0, "2", True]),
    ],
)
def test_range_checks_accept_and_refuse(
    check: Callable[[str, Any], Any], good: list[Any], bad: list[Any]
) -> None:
    assert [check("name", value) for value in good] == good
    for value in bad:
        with pytest.raises(ValueError, match=r"^some_name must be") as error:
            check("some_name", value)
        assert repr(value) in str(error.value)


def test_numbers_give_a_plain_tuple_of_floats() -> None:
    values = base.numbers("betas", [0, 0.5], 2)
    assert values == (0.0, 0.5)
    assert all(type(value) is float for value in values)


@pytest.mark.parametrize("bad", [[1.0], [1.0, 2.0, 3.0], 0.9, "ab", [0.1, "b"], [0.1, math.nan]])
def test_numbers_refuse_wrong_counts_and_non_numbers(bad: Any) -> None:
    with pytest.raises(ValueError, match="betas"):
        base.numbers("betas", bad, 2)


def test_choice_lists_what_is_valid() -> None:
    assert base.choice("mode", "b", ("a", "b")) == "b"
    with pytest.raises(ValueError, match="mode must be one of a, b; got 'c'"):
        base.choice("mode", "c", ("a", "b"))
