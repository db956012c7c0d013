"""Under DistributedDataParallel every process makes the same update, that of the whole batch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ddp_training
import pytest
import torch
import torch.nn.functional as F

from optimizers.kronecker import KroneckerFactors

Weights = dict[str, dict[str, torch.Tensor]]


@pytest.fixture
def folder(tmp_path: Path, write_exponents: Callable[..., Path]) -> Path:
    rows = [{"layer": layer, "s": 1.0 + i} for i, layer in enumerate(("0", "3", "5"))]
    assert write_exponents(rows) == tmp_path / "exponents.parquet"
    return tmp_path


def test_two_processes_make_the_step_of_one_with_the_whole_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # as ddp_training leaves it
    other = subprocess.Popen(
        [sys.executable, ddp_training.__file__, "1", "2", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        ddp_training.main(0, 2, folder)
        output, _ = other.communicate(timeout=200)
        assert other.returncode == 0, output
    finally:
        other.kill()
    ddp_training.main(0, 1, folder)
    first, second, alone = (torch.load(folder / f"{which}.pt") for which in ("2-0", "2-1", "1-0"))
    start = ddp_training.network().state_dict()
    assert first.keys() == {"spectral_newton", "muon", "scalar_spectral_adam", "kfac"}
    for optimizer, weights in first.items():
        for name, weight in weights.items():
            assert torch.equal(weight, second[optimizer][name]), (optimizer, name)
            assert not torch.equal(weight, start[name]), (optimizer, name)
            # Muon's is sensitive where a gradient has tiny singular values.
            torch.testing.assert_close(
                weight, alone[optimizer][name], rtol=1e-3, atol=1e-4, msg=f"{optimizer} {name}"
            )


def test_without_processes_nothing_is_exchanged() -> None:
    model = ddp_training.network()
    factors = KroneckerFactors({"3": model[3]})
    F.cross_entropy(model(torch.randn(4, 2, 6, 6)), torch.arange(4) % 3).backward()
    factors.all_reduce()
    assert factors.pop_all()["3"].samples == 4


def test_a_layer_that_one_process_has_not_seen_counts_with_what_the_other_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other process here: one that has gathered the same sums, of the first layer only."""
    model = ddp_training.network()
    factors = KroneckerFactors({"3": model[3], "5": model[5]})
    F.cross_entropy(model(torch.randn(4, 2, 6, 6)), torch.arange(4) % 3).backward()
    factors.pop("5")
    single = factors.pop("3")
    assert single is not None
    factors._sums["3"] = single
    before = single.input_sum.clone()

    class Work:
        def wait(self) -> None: ...

    def doubled(tensor: torch.Tensor, async_op: bool) -> Any:
        assert async_op
        tensor.mul_(2)
        return Work()

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", doubled)
    factors.all_reduce()
    gathered = factors.pop_all()
    torch.testing.assert_close(gathered["3"].input_sum, 2 * before)
    assert (gathered["3"].samples, gathered["3"].rows) == (8, 8)
    assert (gathered["5"].samples, gathered["5"].input_sum.abs().sum().item()) == (0, 0.0)
