"""What the optimizers use of torch's inside works with this version: seen with 2.11 and 2.13.

Names, groups, exponents and hooks are those of the network, whatever wraps it; and a process has
any number of compiled optimizers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimizers import Muon, ScalarSpectralAdam, SpectralNewton
from optimizers.kfac import KFAC, layers
from optimizers.partition import by_layer, hidden_matrices, label_parameters, weight_layers
from optimizers.torch_private import (
    ConvNd,
    named_modules,
    named_parameters,
    plain_name,
    with_own_code,
)


def test_every_convolution_is_a_conv_nd_and_nothing_else_is() -> None:
    kinds = [kind for name, kind in vars(nn).items() if "Conv" in name and "Lazy" not in name]
    assert len(kinds) == 6
    assert all(issubclass(kind, ConvNd) for kind in kinds)
    assert not issubclass(nn.Linear, ConvNd)


def compile_versions(count: int, key: Callable[[int], str]) -> list[float]:
    """Compile ``count`` functions that differ in a constant, and call each on a weight of 1."""

    def add(weights: list[Tensor], _: Any, __: Any, lr: float, *, number: int) -> None:
        weights[0].add_(lr * number)

    found = []
    torch.compiler.reset()
    for number in range(count):
        kernel = with_own_code(partial(add, number=number), key(number))
        weight = torch.ones(())
        compiled = torch.compile(kernel, backend="eager", fullgraph=True, dynamic=False)
        compiled([weight], [], [], 0.5)
        found.append(weight.item())
    return found


def test_torch_compile_gives_up_after_eight_versions_of_one_code_object_only() -> None:
    assert compile_versions(9, str) == [1 + number / 2 for number in range(9)]
    with pytest.raises(Exception, match="fullgraph=True"):
        compile_versions(9, lambda number: "shared")


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="aot_eager")  # type: ignore[return-value]


def inner_compiled(model: nn.Module) -> nn.Module:
    for name, child in list(model.named_children()):
        setattr(model, name, compiled(child))
    return model


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="aot_eager")
    return model


WRAPPERS: list[Callable[[nn.Module], nn.Module]] = [
    compiled,
    inner_compiled,
    in_place,
    nn.DataParallel,
    lambda model: nn.DataParallel(compiled(model)),
    lambda model: compiled(nn.DataParallel(model)),
]


def listed(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups with the parameters' names alone."""
    named = [[name for name, _ in group["params"]] for group in groups]
    plain = [{k: v for k, v in group.items() if k != "module"} for group in groups]
    return [{**group, "params": names} for group, names in zip(plain, named, strict=True)]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_wrapped_network_has_the_names_and_groups_of_the_plain_one(
    wrap: Callable[[nn.Module], nn.Module], conv_net: type[nn.Module]
) -> None:
    plain, wrapped = conv_net(), wrap(conv_net())
    names = [name for name, _ in plain.named_parameters()]
    assert [name for name, _ in named_parameters(wrapped)] == names
    assert [name for name, _ in named_modules(wrapped)] == [n for n, _ in plain.named_modules()]
    assert label_parameters(wrapped) == label_parameters(plain)
    assert list(weight_layers(wrapped)) == list(weight_layers(plain))
    patterns = {"conv1.*weight": "adamw"}
    assert listed(hidden_matrices(wrapped, patterns)) == listed(hidden_matrices(plain, patterns))
    assert listed(by_layer(wrapped)) == listed(by_layer(plain))
    assert listed(layers(wrapped)) == listed(layers(plain))


def test_a_layer_that_is_itself_called_module_keeps_its_name() -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    assert [name for name, _ in named_parameters(model)] == ["module.weight", "module.bias"]
    assert plain_name("module.weight") == "module.weight"
    assert plain_name("my_orig_mod.weight") == "my_orig_mod.weight"
    assert plain_name("_orig_mod.a._orig_mod.b") == "a.b"


def test_measured_exponents_are_found_by_the_names_of_a_compiled_network(
    conv_net: type[nn.Module], write_exponents: Callable[..., Path]
) -> None:
    rows = [{"layer": n, "alpha": 1.0 + i} for i, n in enumerate(("conv1", "conv2", "hidden"))]
    file = write_exponents(rows)
    model = compiled(conv_net())
    newton = SpectralNewton(hidden_matrices(model), alpha="measured", exponents=file)
    assert newton.param_groups[0]["alphas"] == [1.0, 2.0, 3.0]
    with pytest.warns(UserWarning, match=r"for 1 layers.*: head$"):
        adam = ScalarSpectralAdam(by_layer(model), exponents=file)
    with pytest.warns(UserWarning, match="no usable s"):
        named = ScalarSpectralAdam(model.named_parameters(), exponents=file)
    for optimizer in (adam, named):
        factors = {group["layer"]: group["lr_factor"] for group in optimizer.param_groups}
        assert len({factors[layer] for layer in ("conv1", "conv2", "hidden")}) == 3
        assert factors["head"] == factors[""] == 1.0
    matrices = [(n, p) for n, p in model.named_parameters() if p.ndim == 4]
    direct = SpectralNewton(matrices, alpha="measured", exponents=file)
    assert direct.param_groups[0]["alphas"] == [1.0, 2.0]


BUILDERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "kfac": lambda model: KFAC(layers(model), inverse_every=1),
    "muon": lambda model: Muon(hidden_matrices(model)),
    "spectral_newton": lambda model: SpectralNewton(hidden_matrices(model)),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_compiled_network_trains_like_the_plain_one(name: str) -> None:
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    weights = []
    for wrap in (lambda model: model, compiled):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
        wrapped = wrap(model)
        optimizer = BUILDERS[name](wrapped)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(wrapped(inputs), torch.arange(6) % 3).backward()
            optimizer.step()
        weights.append(model.state_dict())
        if name == "kfac":  # the hooks saw every batch
            assert all("input_factor" in optimizer.state[model[i].weight] for i in (0, 2))
    for key, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][key], rtol=1e-4, atol=1e-6)
