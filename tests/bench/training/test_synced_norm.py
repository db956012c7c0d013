"""BatchNorm over several processes, against torch's over the whole batch, in float64."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.training import parallel
from bench.training.synced_norm import SyncedBatchNorm, synchronised_on_cpu

SIZE = 2


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4)]
    model = nn.Sequential(*layers, nn.BatchNorm1d(4, momentum=None)).double()
    with torch.no_grad():
        model[1].weight.uniform_(0.5, 1.5)
        model[1].bias.uniform_(-1, 1)
    return model


def batch(step: int) -> Tensor:
    stream = torch.Generator().manual_seed(step)
    return 3 + 2 * torch.randn(6, 2, 5, 5, generator=stream, dtype=torch.float64)


def trained(model: nn.Module, part: slice, share: float) -> dict[str, Tensor]:
    """Gradients summed over two batches, and buffers; ``share`` scales the sum to the mean."""
    for step in range(2):
        (model(batch(step)[part]).square().sum() * share).backward()
    found = {f"grad.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**found, **dict(model.named_buffers())}


def work(rank: int, store: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=SIZE)
    model = synchronised_on_cpu(network())
    found = trained(model, slice(3 * rank, 3 * rank + 3), 1.0)
    for name, value in found.items():
        if name.startswith("grad"):
            dist.all_reduce(value)
    torch.save(found, f"{out}.{rank}")
    parallel.leave()


@pytest.mark.slow
def test_two_processes_normalise_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    started = multiprocessing.get_context("spawn")
    paths = (str(tmp_path / "store"), str(tmp_path / "out"))
    processes = [started.Process(target=work, args=(rank, *paths)) for rank in range(SIZE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    expected = trained(network(), slice(None), 1.0)
    for rank in range(SIZE):
        found = torch.load(f"{paths[1]}.{rank}")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


def test_parameters_and_buffers_are_the_same_objects() -> None:
    model = network().eval()
    names = list(model.state_dict())
    before = dict(model.named_parameters())
    replaced = synchronised_on_cpu(model)
    assert list(replaced.state_dict()) == names
    assert all(before[name] is value for name, value in replaced.named_parameters())
    norms = [module for module in replaced.modules() if isinstance(module, SyncedBatchNorm)]
    assert [(norm.momentum, norm.training) for norm in norms] == [(0.1, False), (None, False)]


def test_in_eval_mode_it_is_plain_batch_norm() -> None:
    plain, synced = network().eval(), synchronised_on_cpu(network()).eval()
    assert torch.equal(plain(batch(0)), synced(batch(0)))


def test_one_dimension_is_refused() -> None:
    norm: Any = SyncedBatchNorm(3)
    with pytest.raises(ValueError, match="2 dimensions"):
        norm(torch.zeros(3))
