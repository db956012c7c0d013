"""What a run used, from its cost and its clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import assembly, config, train
from bench.identity import identify
from bench.run import RunFolder
from bench.training.accounting import Cost, ceiling, measure_cost
from bench.training.clock import Clock
from bench.training.usage import flops_until, peak_mib, usage_summary

CPU = torch.device("cpu")
COST = Cost(flops_per_sample=1e6, optimizer_flops=5e6, optimizer_seconds=0.01)


def clock(data: float, step: float, **others: float) -> Clock:
    made = Clock()
    made.load_state_dict({"data": data, "step": step, **others})
    return made


def used(**changes: Any) -> dict[str, Any]:
    given = {"steps": 50, "batch_size": 8, "device": CPU, "precision": "float32", **changes}
    return usage_summary(COST, clock(1.0, 4.0, evaluation=7.0, compile=9.0), **given)


def test_the_numbers() -> None:
    found = used()
    assert found["flops/total"] == 50 * (8 * 1e6 + 5e6) == flops_until(50, COST, 8)
    assert found["flops/per_second"] == pytest.approx(50 * 8 * 1e6 / 5.0)
    assert found["optimizer/share"] == pytest.approx(50 * 0.01 / 5.0)
    assert found["flops/ceiling_per_second"] == ceiling(CPU, torch.float32)
    expected = found["flops/per_second"] / found["flops/ceiling_per_second"]
    assert found["utilisation"] == pytest.approx(expected)
    assert used(devices=2)["utilisation"] == pytest.approx(expected / 2)
    assert used(precision="bf16")["flops/ceiling_per_second"] == ceiling(CPU, torch.bfloat16)


def test_before_the_first_step_there_is_no_rate() -> None:
    found = usage_summary(COST, Clock(), steps=0, batch_size=8, device=CPU, precision="float32")
    assert found["flops/total"] == 0
    assert "utilisation" not in found


def test_without_a_cost_there_is_the_memory_alone() -> None:
    given = {"steps": 1, "batch_size": 1, "device": CPU, "precision": "float32"}
    assert set(usage_summary(None, Clock(), **given)) == {"memory/peak_mib"}  # type: ignore[arg-type]


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

    monkeypatch.setattr(assembly, "measure_cost", measure)
    monkeypatch.setattr(assembly, "_costs", {})
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
    assembly._costs.clear()
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

    monkeypatch.setattr(assembly, "measure_cost", broken)
    monkeypatch.setattr(assembly, "_costs", {})
    with pytest.warns(UserWarning, match="not measured: no meta kernel"):
        summary = train.train(quick("trainer.accounting=true"))
    assert summary["state"] == "done"
    assert "utilisation" not in summary
