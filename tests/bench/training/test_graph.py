"""What a step changes on the host, for optimizers that do and that do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bench import config, files
from bench.build import build_optimizer
from bench.training.graph import difference, fingerprint

CPU = torch.device("cpu")  # where the parameters are: what lies there may change
GPU = torch.device("cuda")  # everything on the CPU is then on the host
NAMES = sorted(path.stem for path in (files.conf_dir() / "optimizer").glob("*.yaml"))


class Fragile(torch.optim.SGD):
    """SGD that does in ``act`` what the test says."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1, momentum=0.9)
        self.act: Any = lambda: None
        self.stream = torch.Generator().manual_seed(0)
        self.deep = {"a": [1, {"b": 2.0}], "counted": torch.tensor(3.0)}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        self.act()


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 3))


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.zero_grad()
    model(torch.randn(5, 1, 4, 4)).square().sum().backward()
    optimizer.step()


def changed(optimizer: Any, model: nn.Module, device: torch.device) -> str | None:
    for _ in range(2):
        stepped(model, optimizer)
    before = fingerprint(optimizer, device)
    stepped(model, optimizer)
    return difference(before, fingerprint(optimizer, device))


def fragile() -> tuple[nn.Module, Fragile]:
    model = small()
    return model, Fragile(model.parameters())


def test_a_step_in_place_changes_nothing_on_the_host() -> None:
    model, optimizer = fragile()
    assert changed(optimizer, model, CPU) is None


def test_a_rate_is_an_input() -> None:
    model, optimizer = fragile()
    optimizer.act = lambda: optimizer.param_groups[0].update(lr=0.5)
    assert changed(optimizer, model, CPU) is None


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda o: vars(o).update(count=vars(o).get("count", 0) + 1), ".count changes"),
        (lambda o: o.param_groups[0].update(nesterov=not o.param_groups[0]["nesterov"]), "nest"),
        (lambda o: o.deep["a"][1].update(b=o.deep["a"][1]["b"] * 2), ".deep['a'][1]['b'] changes"),
        (lambda o: o.deep["a"].append(0), ".deep['a'][4] appears"),
        (lambda o: torch.rand(1, generator=o.stream), ".stream changes"),
    ],
)
def test_what_python_keeps_is_seen(act: Any, said: str) -> None:
    model, optimizer = fragile()
    optimizer.act = lambda: act(optimizer)
    found = changed(optimizer, model, CPU)
    assert found is not None
    assert said in found


def test_a_count_on_the_host_is_seen_beside_parameters_on_a_gpu() -> None:
    model, optimizer = fragile()
    optimizer.act = lambda: optimizer.deep["counted"].add_(1)
    assert "changes on the host" in str(changed(optimizer, model, GPU))


def test_a_state_that_is_replaced_is_seen() -> None:
    model, optimizer = fragile()

    def replace() -> None:
        state = optimizer.state[model[0].weight]
        state["momentum_buffer"] = state["momentum_buffer"] * 1.0

    optimizer.act = replace
    found = changed(optimizer, model, CPU)
    assert found is not None
    assert "['momentum_buffer'] is replaced by a new tensor" in found


def test_nothing_is_followed_round_in_circles() -> None:
    model, optimizer = fragile()
    optimizer.deep["itself"] = optimizer.deep
    optimizer.deep["owner"] = optimizer
    assert changed(optimizer, model, CPU) is None


# An optimizer of conf/ may not enter this list unless its step is the same kernels every time.
IN_PLACE = {"muon", "sgd", "sgd_over_damping", "spectral_newton", "spectral_newton_paper"}
COUNTS = {"kfac", "psgd_kron", "schedule_free_adamw", "shampoo", "shampoo_original", "soap"}


@pytest.mark.parametrize("name", NAMES)
def test_the_optimizers_of_conf(name: str) -> None:
    component = config.load([f"optimizer={name}"]).optimizer if _loadable(name) else None
    if component is None:
        pytest.skip("needs a file of measured exponents")
    model = small()
    optimizer = build_optimizer(component, model)
    for method in ("train",):
        getattr(optimizer, method, lambda: None)()
    found = changed(optimizer, model, CPU)
    if name in IN_PLACE:
        assert found is None
    if name in COUNTS:
        assert found is not None


def _loadable(name: str) -> bool:
    return "${exponents}" not in (files.conf_dir() / "optimizer" / f"{name}.yaml").read_text()
