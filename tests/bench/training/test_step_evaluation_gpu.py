"""Evaluation every so many steps between replays of a CUDA graph: training stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from loops import ran

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FREE = {"_target_": "pytorch_optimizer.ScheduleFreeAdamW", "_partial_": True, "lr": 0.01}


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    """Kernels that add in the same order each time, or no two runs could be compared by bits."""
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


def weights(run: Any) -> dict[str, Any]:
    """Return all that is kept of a run but its energy, which is of this time."""
    return {key: value for key, value in run.state_dict().items() if key != "energy"}


@pytest.mark.parametrize("optimizer", ["adamw", "schedule_free"])
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_trajectory_is_the_same_to_the_last_bit(
    build: Any, assert_same: Any, precision: str, graph: bool, optimizer: str
) -> None:
    if optimizer == "schedule_free" and graph:
        pytest.skip("it counts its steps on the host: no graph")
    if optimizer == "schedule_free":
        pytest.importorskip("pytorch_optimizer")
    options = {
        "data": build.images().to("cuda"),
        "optimizer": build.ADAMW if optimizer == "adamw" else FREE,
        "precision": precision,
        "cuda_graph": graph,
        "epochs": 4,
    }
    plain, again = (ran(build(name, **options)) for name in ("plain", "again"))
    assert_same(weights(again), weights(plain))  # else the test could show nothing
    seen = ran(build("seen", evaluate_every=1, evaluate_samples=7, **options))
    assert (seen.training_step.graph is not None) is graph
    assert_same(weights(seen), weights(plain))
    names = ("train/loss", "val/loss", "test/accuracy")
    for name in names:
        found = [[row[name] for row in run.history if name in row] for run in (plain, seen)]
        assert found[0] == found[1]
    assert sum("step/val_loss" in row for row in seen.history) == seen.total_steps
    assert seen.clock.seconds["step_evaluation"] > 0
