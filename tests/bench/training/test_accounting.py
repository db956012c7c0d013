"""What a step costs, against FLOPs counted by hand; what a run used, from cost and clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import setup_of
from torch import Tensor, nn

from bench import config, train
from bench.build import ImageShape, build_model, build_optimizer
from bench.identity import identify
from bench.run_folder import RunFolder
from bench.training import accounting
from bench.training.accounting import (
    Cost,
    bare_copy,
    ceiling,
    flops_until,
    measure_cost,
    model_flops,
    peak_mib,
    time_optimizer,
    usage_summary,
)
from bench.training.parallel import Team
from bench.training.summary import Clock

CPU = torch.device("cpu")


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 7, bias=False), nn.ReLU(), nn.Linear(7, 3))


def batch(size: int = 5, shape: tuple[int, ...] = (3, 2, 2), classes: int = 3) -> tuple[Any, Any]:
    return torch.randn(size, *shape), torch.randint(0, classes, (size,))


def test_two_layers_by_hand() -> None:
    # Forward of both, gradients of both weights, and of the second layer's input only.
    expected = 5 * 2 * (12 * 7 + 7 * 3 + 12 * 7 + 7 * 3 + 7 * 3)
    assert model_flops(two_layers(), batch()) == expected


def test_a_convolution_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 25, 3))
    convolution, head = 25 * 2 * 9 * 4, 100 * 3
    expected = 6 * 2 * (2 * convolution + 3 * head)
    assert model_flops(model, batch(6, (2, 5, 5))) == expected


def test_flops_grow_with_the_batch_and_not_with_its_content() -> None:
    model = build_model(config.load(["model=convnet"]).model, ImageShape(1, 10, 8))
    small, large = (model_flops(model, batch(size, (1, 8, 8), 10)) for size in (4, 12))
    assert large == 3 * small > 0


@pytest.mark.parametrize("name", ["adamw", "muon", "kfac", "schedule_free_adamw", "soap"])
def test_measuring_leaves_no_trace(name: str) -> None:
    component = config.load([f"optimizer={name}"]).optimizer
    torch.manual_seed(0)
    model = build_model(config.load(["model=convnet"]).model, ImageShape(1, 10, 8))
    optimizer = build_optimizer(component, model)  # K-FAC's hooks are on the original
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sample = batch(8, (1, 8, 8), 10)
    random = torch.get_rng_state()
    cost = measure_cost(model, lambda it: build_optimizer(component, it), sample)
    assert torch.equal(torch.get_rng_state(), random)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.grad is None for parameter in model.parameters())
    assert optimizer.state == {}
    assert cost.optimizer_seconds > 0
    assert (cost.optimizer_flops > 0) == (name in {"muon", "kfac", "soap"})


def test_muons_flops_by_hand() -> None:
    component = config.load(["optimizer=muon"]).optimizer
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))
    cost = measure_cost(model, lambda it: build_optimizer(component, it), batch())
    gram, square, product = 7 * 7 * 12, 7 * 7 * 7, 7 * 7 * 12
    assert cost.optimizer_flops == 5 * 2 * (gram + square + product)  # the head is AdamW's


def test_a_copy_has_no_hooks_and_no_gradients() -> None:
    model = two_layers()
    seen: list[Tensor] = []
    model[1].register_forward_hook(lambda *_: seen.append(torch.zeros(())))
    model(batch()[0]).sum().backward()
    replica = bare_copy(model)
    assert all(parameter.grad is None for parameter in replica.parameters())
    count = len(seen)
    replica(batch()[0])
    assert len(seen) == count
    assert torch.equal(replica[1].weight, model[1].weight)
    assert replica[1].weight is not model[1].weight
    model(batch()[0])
    assert len(seen) == count + 1  # the original keeps its hook


def test_a_slow_step_is_timed_once() -> None:
    class Slow(torch.optim.SGD):
        steps = 0

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            Slow.steps += 1

    model = two_layers()
    assert time_optimizer(Slow(model.parameters()), CPU, limit=0.0) > 0
    assert Slow.steps == 1


def test_the_ceiling_is_measured_once() -> None:
    first = ceiling(CPU, torch.float32)
    assert first > 1e8
    assert ceiling(CPU, torch.float32) == first


class Preparing(torch.optim.SGD):
    """SGD with a product in its first step alone; remembers whether each step was compiled."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.1)
        self.param_groups[0]["compile"] = True
        self.compiled: list[bool] = []

    def step(self, closure: Any = None) -> Any:
        if not self.compiled:
            torch.ones(4, 4) @ torch.ones(4, 4)
        self.compiled.append(self.param_groups[0]["compile"])
        return super().step(closure)


def test_the_first_step_is_not_counted_and_the_timed_ones_are_compiled() -> None:
    made: list[Preparing] = []

    def make(model: nn.Module) -> Preparing:
        made.append(Preparing(model))
        return made[-1]

    cost = measure_cost(two_layers(), make, batch())
    assert cost.optimizer_flops == 0
    counted, timed = made[0].compiled[:2], made[0].compiled[2:]
    assert counted == [False, False]
    assert timed and all(timed)


COST = Cost(flops_per_sample=1e6, optimizer_flops=5e6, optimizer_seconds=0.01)


def clock(data: float, step: float, **others: float) -> Clock:
    made = Clock()
    made.load_state_dict({"data": data, "step": step, **others})
    return made


@pytest.fixture
def used(build: Any) -> Callable[..., dict[str, Any]]:
    """What 50 steps used; ``changes`` are of the setup."""
    times = clock(1.0, 4.0, evaluation=7.0, compile=9.0)
    return lambda **changes: usage_summary(setup_of(build.TRAINER, **changes), COST, times, 50)


def test_the_numbers(used: Callable[..., dict[str, Any]]) -> None:
    found = used()
    assert found["flops/total"] == 50 * (8 * 1e6 + 5e6) == flops_until(50, COST, 8)
    assert found["flops/per_second"] == pytest.approx(50 * 8 * 1e6 / 5.0)
    assert found["optimizer/share"] == pytest.approx(50 * 0.01 / 5.0)
    assert found["flops/ceiling_per_second"] == ceiling(CPU, torch.float32)
    expected = found["flops/per_second"] / found["flops/ceiling_per_second"]
    assert found["utilisation"] == pytest.approx(expected)
    assert used(team=Team(0, 2))["utilisation"] == pytest.approx(expected / 2)
    assert used(precision="bf16")["flops/ceiling_per_second"] == ceiling(CPU, torch.bfloat16)


def test_before_the_first_step_there_is_no_rate(build: Any) -> None:
    found = usage_summary(setup_of(build.TRAINER), COST, Clock(), 0)
    assert found["flops/total"] == 0
    assert "utilisation" not in found


def test_without_a_cost_there_is_the_memory_alone(build: Any) -> None:
    assert set(usage_summary(setup_of(build.TRAINER), None, Clock(), 1)) == {"memory/peak_mib"}


def test_the_peak_is_that_of_the_process() -> None:
    before = peak_mib(CPU)
    assert 50 < before < 1e6
    block = torch.ones(200 * 2**18)  # 200 MiB
    assert peak_mib(CPU) >= before
    del block


def test_a_run_says_what_it_used(quick: Callable[..., config.RunConfig]) -> None:
    run = quick("trainer.accounting=true", "optimizer=muon", "trainer.epochs=2")
    summary = train.train(run)
    layers = 64 * 8 + 8 * 10
    # Forward and weight gradients of both layers, the input's gradient of the second.
    assert summary["flops/sample"] == 2 * (2 * layers + 8 * 10)
    assert summary["flops/optimizer_step"] > 0
    assert 0 < summary["optimizer/share"] < 10
    assert 0 < summary["utilisation"] < 1
    assert summary["memory/peak_mib"] > 10
    history = RunFolder(Path(run.runs_dir) / identify(run).id).history()
    flops = [row["flops"] for row in history if "flops" in row]
    per_epoch = 3 * (400 * summary["flops/sample"] + summary["flops/optimizer_step"])
    assert flops == [per_epoch, 2 * per_epoch]


def test_accounting_changes_no_bit_of_a_run(quick: Callable[..., config.RunConfig]) -> None:
    runs = [quick(f"trainer.accounting={value}", "optimizer=muon") for value in ("true", "false")]
    found = []
    for number, run in enumerate(runs):
        own = run.model_copy(update={"runs_dir": f"{run.runs_dir}{number}"})
        train.train(own)
        found.append(RunFolder(Path(own.runs_dir) / identify(own).id).load_checkpoint())
    assert identify(runs[0]) == identify(runs[1])
    for key, value in found[0]["model"].items():
        assert torch.equal(value, found[1]["model"][key])
    assert torch.equal(found[0]["random"], found[1]["random"])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Cost]:
    """What is measured from now on, in a process that has measured nothing yet."""
    found: list[Cost] = []

    def measure(*arguments: Any) -> Cost:
        found.append(measure_cost(*arguments))
        return found[-1]

    monkeypatch.setattr(accounting, "measure_cost", measure)
    monkeypatch.setattr(accounting, "_costs", {})
    return found


def test_runs_alike_are_measured_once_and_keep_their_bits(
    quick: Callable[..., config.RunConfig],
    parts: Any,
    measured: list[Cost],
    assert_same: Callable[..., None],
    tmp_path: Path,
) -> None:
    words = ["model._target_=bench_test_parts.NoisyNet", "~model.hidden"]  # dropout
    words += ["trainer.accounting=true", "optimizer=muon"]
    first = train.train(quick(*words, "seed=1"))
    second = train.train(run := quick(*words, "seed=2", "optimizer.lr=0.01"))
    assert len(measured) == 1
    for key in ("flops/sample", "flops/optimizer_step"):
        assert first[key] == second[key] > 0
    accounting._costs.clear()
    train.train(alone := run.model_copy(update={"runs_dir": str(tmp_path / "alone")}))
    assert len(measured) == 2
    one, two = (RunFolder(Path(each.runs_dir) / identify(each).id) for each in (run, alone))
    assert_same(one.load_checkpoint(), two.load_checkpoint())
    assert one.history() == two.history()
    for other in ("optimizer=adamw", "trainer.batch_size=200"):
        train.train(quick(*words, other))
    assert len(measured) == 4


def test_a_network_that_cannot_be_counted_is_trained_all_the_same(
    quick: Callable[..., config.RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Cost:
        raise RuntimeError("no meta kernel")

    monkeypatch.setattr(accounting, "measure_cost", broken)
    monkeypatch.setattr(accounting, "_costs", {})
    with pytest.warns(UserWarning, match="not measured: no meta kernel"):
        summary = train.train(quick("trainer.accounting=true"))
    assert summary["state"] == "done"
    assert "utilisation" not in summary
