"""One run in two processes on the CPU (gloo), against the same run in one, to tight tolerance.

BatchNorm over several processes, against torch's over the whole batch, in float64.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench import config, preemption, train
from bench.errors import UserError
from bench.identity import identify
from bench.run_folder import RunFolder
from bench.training import parallel
from bench.training.parallel import ALONE, SyncedBatchNorm, Team, synchronised_on_cpu

Make = Callable[..., config.RunConfig]
CPU = torch.device("cpu")


def folder_of(run: config.RunConfig) -> RunFolder:
    return RunFolder(Path(run.runs_dir) / identify(run).id)


def pair(tmp_path: Path, *overrides: str) -> tuple[config.RunConfig, config.RunConfig]:
    """The same run, in one process and in two, below two folders; three steps an epoch."""
    common = [
        "model.width=4",
        "tracker=none",
        "trainer.epochs=1",
        "trainer.batch_size=400",
        "trainer.progress=none",
        "trainer.device=cpu",
        "trainer.threads=1",
        "trainer.accounting=false",
        *overrides,
    ]
    one = config.load([*common, f"runs_dir={tmp_path / 'one'}"])
    two = config.load([*common, f"runs_dir={tmp_path / 'two'}", "trainer.devices=2"])
    assert identify(one) == identify(two)
    return one, two


def assert_close(one: RunFolder, two: RunFolder) -> None:
    for left, right in zip(one.history(), two.history(), strict=True):
        assert left == pytest.approx(right, rel=1e-4, abs=1e-5)
    first, second = one.load_checkpoint(), two.load_checkpoint()
    assert first is not None
    assert second is not None
    for key, value in first["model"].items():
        torch.testing.assert_close(second["model"][key], value, rtol=1e-3, atol=1e-5)


# -- a process alone ------------------------------------------------------------------------------


def test_alone_nothing_is_shared() -> None:
    tensor, model = torch.arange(6.0), torch.nn.BatchNorm2d(2)
    assert ALONE.share(tensor) is tensor
    assert ALONE.mean(tensor) is tensor
    assert ALONE.average_gradients(model) is model
    assert ALONE.synchronise_norms(model, CPU) is model
    assert ALONE.leads
    assert [ALONE.any(flag) for flag in (True, False)] == [True, False]


def test_shares_are_the_batch_in_order() -> None:
    batch = torch.arange(12).reshape(6, 2)
    shares = [Team(rank, 3).share(batch) for rank in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    assert torch.equal(torch.cat(shares), batch)
    assert [Team(rank, 3).leads for rank in range(3)] == [True, False, False]


def test_a_refusal_leaves_no_run_behind(quick: Make) -> None:
    run = quick("trainer.devices=3")
    with pytest.raises(UserError, match="does not divide"):
        train.train(run)
    assert folder_of(run).status == {}


# -- two processes --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "kfac"])
def test_two_processes_train_as_one(tmp_path: Path, optimizer: str) -> None:
    # BatchNorm in every layer, momentum, clipping and smoothing; a window across the epoch's end.
    own = () if optimizer == "kfac" else ("trainer.grad_clip=1.0",)
    one, two = pair(
        tmp_path,
        f"optimizer={optimizer}",
        "trainer.epochs=2",
        "trainer.log_every=2",
        "trainer.evaluate_every=2",
        "trainer.label_smoothing=0.1",
        *own,
    )
    for run in (one, two):
        assert train.train(run)["state"] == "done"
    assert_close(folder_of(one), folder_of(two))


@pytest.mark.slow
def test_the_leader_alone_measures_curvature_as_a_single_process_does(tmp_path: Path) -> None:
    one, two = pair(
        tmp_path,
        "trainer.epochs=2",
        "trainer.curvature_every=1",
        "trainer.curvature._target_=watched_callback.WatchedCallback",
        "trainer.curvature.directions=6",
        "trainer.curvature.batch=64",
        "+trainer.curvature.dtype=float64",
    )
    tables = []
    for run in (one, two):
        assert train.train(run)["clock/curvature_seconds"] > 0
        folder = folder_of(run)
        made = sorted(path.name.split("-")[1:] for path in folder.path.glob("measured-*"))
        assert [step for step, _ in made] == ["0", "3", "6"]
        assert {int(process) for _, process in made} == {os.getpid()}
        tables.append(pd.read_parquet(folder.path / "curvature.parquet"))
    assert_close(folder_of(one), folder_of(two))  # the logged exponents are in the history
    assert "alpha/head" in folder_of(two).history()[-1]
    single, double = tables
    first = single["step"] == 0  # the same weights, to the last bit
    pd.testing.assert_frame_equal(single[first], double[first])
    pd.testing.assert_frame_equal(single, double, rtol=5e-2, atol=1e-7)


@pytest.mark.slow
def test_a_run_of_two_is_continued_by_one_and_the_other_way_round(tmp_path: Path) -> None:
    options = ("trainer.epochs=3", "trainer.checkpoint_every=1", "trainer.log_every=2")
    one, two = pair(tmp_path, *options)
    train.train(one)
    for first, then in ((1, 2), (2, 1)):
        base = two.model_copy(update={"runs_dir": f"{two.runs_dir}-{first}"})
        parts = [
            base.model_copy(update={"trainer": base.trainer.model_copy(update={"devices": n})})
            for n in (first, then)
        ]
        preemption.request("a test")
        with pytest.raises(KeyboardInterrupt, match="a test at step 1"):
            train.train(parts[0])
        preemption.clear()
        assert folder_of(base).status["state"] == "running"
        assert train.train(parts[1])["state"] == "done"
        assert_close(folder_of(one), folder_of(base))


@pytest.mark.slow
def test_a_run_that_diverges_ends_in_both(tmp_path: Path) -> None:
    _, two = pair(tmp_path, "optimizer=sgd", "optimizer.lr=1e30")
    summary = train.train(two)
    assert summary["state"] == "diverged"
    assert "is" in str(folder_of(two).status["cause"])


@pytest.mark.slow
def test_a_signal_stops_both_and_nothing_is_left_running(tmp_path: Path) -> None:
    arguments = [
        "trainer.devices=2",
        "trainer.epochs=4000",
        "trainer.checkpoint_seconds=0",
        "trainer.threads=1",
        "trainer.progress=none",
        "tracker=none",
        f"runs_dir={tmp_path}",
    ]
    command = [sys.executable, "-m", "bench.train", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: any(tmp_path.glob("*/checkpoint.pt")))
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: every process of the job
    assert process.wait(60) != 0
    (status,) = tmp_path.glob("*/status.json")
    assert json.loads(status.read_text())["state"] == "running"
    wait_for(lambda: not group_exists(process.pid))


@pytest.mark.slow
def test_followers_end_with_a_leader_that_is_killed(tmp_path: Path) -> None:
    arguments = ["trainer.devices=2", "trainer.epochs=4000", "tracker=none", f"runs_dir={tmp_path}"]
    arguments += ["trainer.checkpoint_seconds=0"]
    command = [sys.executable, "-m", "bench.train", "trainer.threads=1", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: any(tmp_path.glob("*/checkpoint.pt")))
    process.kill()
    process.wait(60)
    wait_for(lambda: not group_exists(process.pid))


GPUS = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
    ],
)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", GPUS])
def test_the_error_of_another_rank_is_the_error_of_the_run(tmp_path: Path, device: str) -> None:
    """Rank 0, which waits for gradients of rank 1, is freed, and says what happened there."""
    target = "optimizer._target_=failing_rank.FailsOnRankOne"
    _, two = pair(tmp_path, "optimizer=sgd", target, f"trainer.device={device}")
    with pytest.raises(RuntimeError, match="rank1: RuntimeError: CUDA error: out of memory"):
        train.train(two)
    status = folder_of(two).status
    assert (status["state"], status["kind"]) == ("failed", "out of memory")
    assert status["cause"] == "RuntimeError: rank1: RuntimeError: CUDA error: out of memory"


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def group_exists(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_two_gpus_train_as_one(tmp_path: Path, precision: str) -> None:
    options = ("trainer.device=cuda", f"trainer.precision={precision}", "trainer.epochs=3")
    one, two = pair(tmp_path, *options)
    for run in (one, two):
        assert train.train(run)["state"] == "done"
    for left, right in zip(folder_of(one).history(), folder_of(two).history(), strict=True):
        assert left.pop("joules", 0) >= 0 <= right.pop("joules", 0)  # two GPUs use more than one
        assert left == pytest.approx(right, rel=0.03, abs=0.03)


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
