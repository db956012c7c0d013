"""One run on several devices of one node: a process each, the same global batch, the same result.

The process that was started is rank 0: it alone writes the run folder and logs to the tracker. The
others follow it, from the same setup and checkpoint. Every step takes the global batch that one
device would take, each rank its share; gradients are averaged (DistributedDataParallel), and
BatchNorm normalises by the global batch (SyncBatchNorm), so that the result is that of one device
but for rounding. Dropout masks are the exception: each rank draws its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from bench import preemption


class _Gather(torch.autograd.Function):
    """The tensors of all processes, stacked: [processes, ...]."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:  # noqa: ARG004
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        # Every process used this one's part: its gradient is the sum of theirs.
        total = grads[0].contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]


class SyncedBatchNorm(_BatchNorm):
    """BatchNorm whose batch is that of all processes together, all of them of one size.

    Mean and variance of the parts are combined as Chan et al. (1979) do. Compared with
    torch.nn.SyncBatchNorm, which is for GPUs. In eval mode it is plain BatchNorm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected an input of 2 dimensions or more, not {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input`` [B, C, ...]."""
        self._check_input_dim(input)
        if not (self.training or self.running_mean is None):
            return super().forward(input)
        wide = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        dims = [0, *range(2, input.dim())]
        own = torch.stack([wide.mean(dims), wide.var(dims, correction=0)])
        parts: Tensor = _Gather.apply(own)  # type: ignore[no-untyped-call]
        mean = parts[:, 0].mean(0)
        var = parts[:, 1].mean(0) + (parts[:, 0] - mean).square().mean(0)
        self._update(mean.detach(), var.detach(), input.numel() // input.shape[1] * len(parts))
        shape = (1, -1, *[1] * (input.dim() - 2))
        out = (wide - mean.reshape(shape)) * (var + self.eps).rsqrt().reshape(shape)
        if self.weight is not None:
            out = out * self.weight.reshape(shape) + self.bias.reshape(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, var: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # a plain average
            share = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        unbiased = var * (count / max(count - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var), share)


def synchronised_on_cpu(model: nn.Module) -> nn.Module:
    """Return ``model`` with every BatchNorm replaced; parameters and buffers are the same."""
    if isinstance(model, _BatchNorm):
        made = SyncedBatchNorm(
            model.num_features,
            model.eps,
            model.momentum,
            model.affine,
            model.track_running_stats,
        )
        made._parameters, made._buffers = model._parameters, model._buffers
        return made.train(model.training)
    for name, child in model.named_children():
        setattr(model, name, synchronised_on_cpu(child))
    return model


@dataclass(frozen=True)
class Team:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    size: int = 1
    folder: str | None = None  # where ranks meet, and write down why they failed

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def first_error(self, error: Exception) -> Exception:
        """Return what made rank 0 fail: the error that another rank wrote down, or its own."""
        for file in sorted(Path(self.folder).glob("rank*")) if self.folder else []:
            return RuntimeError(f"{file.name}: {file.read_text()}")
        return error

    def share(self, tensor: Tensor) -> Tensor:
        """Return this rank's part of a global batch, samples first."""
        if self.size == 1:
            return tensor
        return tensor.tensor_split(self.size)[self.rank]

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over the ranks; every rank must ask for it."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total / self.size

    def any(self, mine: bool) -> bool:
        """Whether it is so on some rank; every rank must ask. Does not wait for a GPU."""
        if self.size == 1:
            return mine
        flag = torch.tensor([float(mine)])
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def average_gradients(self, model: nn.Module) -> nn.Module:
        """Wrap ``model`` so that its backward pass averages gradients over the ranks."""
        if self.size == 1:
            return model
        with warnings.catch_warnings():
            # Newer versions of torch call the option otherwise, older ones know this name alone.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(model, broadcast_buffers=False)

    def synchronise_norms(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Make every BatchNorm of ``model`` take its statistics from the global batch."""
        if self.size == 1:
            return model
        if device.type == "cuda":
            converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            return cast(nn.Module, converted)
        return synchronised_on_cpu(model)


ALONE = Team()


@contextmanager
def team(size: int, kind: str, follow: Callable[..., None], *args: Any) -> Iterator[Team]:
    """Start the other ranks, each calling ``follow(team, *args)``, and be rank 0 until the end.

    ``follow`` and ``args`` travel to ``size`` - 1 new processes, on devices of ``kind``, "cuda" or
    "cpu". If one rank fails, the others are ended.
    """
    if size == 1:
        yield ALONE
        return
    started = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="spectral-bench-team-") as folder:
        leader, *followers = (Team(rank, size, folder) for rank in range(size))
        others = [
            started.Process(
                target=_be_follower, args=(one, kind, os.getpid(), follow, args), daemon=True
            )
            for one in followers
        ]
        for process in others:
            process.start()
        over = threading.Event()
        try:
            _join(leader, kind)
            threading.Thread(target=_watch, args=(others, over), daemon=True).start()
            yield leader
            over.set()
            leave()
            for process in others:
                process.join()
        finally:
            over.set()
            for process in others:
                process.kill()  # nothing, where it has ended
                process.join()
            if dist.is_initialized():  # a rank failed: they can't leave together any more
                _abandon()


def leave() -> None:
    """Leave the process group; every rank must, and NCCL waits until all do.

    Gloo's threads may still have to free the last tensors exchanged, which takes Python's lock,
    while whoever ends the group holds that lock and waits for the threads (seen in torch 2.13).
    One more exchange, which waits without the lock, lets them finish.
    """
    last = torch.zeros(1)  # on the CPU: gloo's; lives until the group has ended
    dist.all_reduce(last)
    dist.destroy_process_group()


def _join(team: Team, kind: str) -> None:
    if Path("/sys/class/net/lo").exists():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one node: no name of it is looked up
    if kind == "cuda":
        torch.cuda.set_device(team.rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo",
        init_method=f"file://{team.folder}/store",
        rank=team.rank,
        world_size=team.size,
    )


def _be_follower(
    team: Team, kind: str, leader: int, follow: Callable[..., None], args: tuple[Any, ...]
) -> None:
    for number in (*preemption.SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # rank 0 decides when to stop
    threading.Thread(target=_end_with, args=(leader,), daemon=True).start()
    try:
        _join(team, kind)
        follow(team, *args)
    except BaseException as error:
        reason = Path(str(team.folder)) / f"rank{team.rank}"
        reason.write_text(f"{type(error).__name__}: {error}")
        os._exit(1)  # without waiting for the others: rank 0 ends them
    leave()


def _watch(others: Sequence[BaseProcess], over: threading.Event) -> None:
    """Free rank 0 from waiting on a GPU for a rank that has failed; gloo notices by itself."""
    while not over.wait(0.5):
        if any(process.exitcode for process in others):
            if _nccl():
                _abandon()
            return


def _nccl() -> bool:
    return dist.is_initialized() and "nccl" in dist.get_backend_config()


def _abandon() -> None:
    """Leave a team that is not whole; NCCL's orderly way out would wait for the others."""
    if _nccl():
        dist.distributed_c10d._abort_process_group()
    else:
        time.sleep(0.1)  # instead of the exchange in leave(): there is nobody to answer
        dist.destroy_process_group()


def _end_with(leader: int) -> None:
    """End this process when rank 0 is gone, however it went."""
    while os.getppid() == leader:
        time.sleep(1.0)
    os._exit(1)
