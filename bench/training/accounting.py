"""What a step costs and what a run used: FLOPs, the optimizer's time, memory, utilisation.

A step is counted and timed on a copy of the network, so that a run's weights and random state stay
as they are. FLOPs are those that `torch.utils.flop_counter` counts: matrix products, convolutions
and attention, a multiplication and an addition as two; not what is elementwise, nor decompositions.
"""

from __future__ import annotations

import copy
import functools
import resource
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.build import build_optimizer
from bench.data.base import Data
from bench.setup import Setup
from bench.training.compile_lock import CompileLock
from bench.training.graph import CudaRecorder
from bench.training.losses import cross_entropy
from bench.training.step import choose_means
from bench.training.summary import Clock

# Of a batch, for gradients.
_SAMPLES = 32

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


class Cost(NamedTuple):
    """A step's cost.

    ``flops_per_sample``: of one sample's forward and backward pass. ``optimizer_flops`` and
    ``optimizer_seconds``: of one optimizer step, whatever the batch.
    """

    flops_per_sample: float
    optimizer_flops: float
    optimizer_seconds: float


# Costs that this process has measured, by the runs' compile keys and devices.
_costs: dict[tuple[str, str], Cost] = {}


def cost_of_run(setup: Setup, model: nn.Module, data: Data) -> Cost | None:
    """Measure a step's cost on a copy, once in this process for runs that differ by seed and rate.

    It takes seconds where an optimizer is compiled, more than a short run's training. A network
    that refuses to be copied or counted has none.
    """
    key = (setup.compile_key, str(setup.device))
    if key not in _costs:
        batch = next(data.train_batches(setup.config.seed, 0, setup.config.trainer.batch_size))
        make = functools.partial(build_optimizer, setup.config.optimizer)
        try:
            with CompileLock.of("cost", setup):
                _costs[key] = measure_cost(model, make, batch)
        except Exception as error:  # of a network or an optimizer that is not ours, say
            what = "FLOPs and the optimizer's time are not measured"
            warnings.warn(f"{what}: {error}", stacklevel=2)
            return None
    return _costs[key]


def measure_cost(
    model: nn.Module, make_optimizer: MakeOptimizer, batch: tuple[Tensor, Tensor]
) -> Cost:
    """Count and time a step of ``batch`` on a copy of ``model``, where the two are.

    ``make_optimizer`` is called with the copy.
    """
    device = batch[0].device
    few = (batch[0][:_SAMPLES], batch[1][:_SAMPLES])  # what the gradients are does not matter
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # the run's own optimizer gives them again
        replica = bare_copy(model).train()
        optimizer = make_optimizer(replica)
        flops = model_flops(model, batch) / len(batch[0])
        if device.type == "cuda":
            choose_means(optimizer, capturable=True)
        getattr(optimizer, "train", lambda: None)()  # some refuse to step before this
        compiled = [group.get("compile") for group in optimizer.param_groups]
        _set_compile(optimizer, [False] * len(compiled))  # compiled code cannot be counted
        for _ in range(2):  # the first step makes the state
            optimizer.zero_grad(set_to_none=True)
            _backward(replica, few)
            with FlopCounterMode(display=False) as counter:
                optimizer.step()
        _set_compile(optimizer, compiled)
        seconds = time_optimizer(optimizer, device)
    return Cost(flops, float(counter.get_total_flops()), seconds)


def _set_compile(optimizer: torch.optim.Optimizer, values: Sequence[bool | None]) -> None:
    for group, value in zip(optimizer.param_groups, values, strict=True):
        if "compile" in group:
            group["compile"] = value


def model_flops(model: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    """FLOPs of forward and backward of a whole batch; no memory is used and nothing computed."""
    skeleton = bare_copy(model, device="meta").train()
    inputs, targets = (torch.empty_like(tensor, device="meta") for tensor in batch)
    with FlopCounterMode(display=False) as counter:
        _backward(skeleton, (inputs, targets))
    return float(counter.get_total_flops())


def _backward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    cross_entropy(model(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]


def bare_copy(model: nn.Module, device: str | None = None) -> nn.Module:
    """Return a copy without hooks and gradients, of the same shapes only where ``device`` is meta.

    Hooks belong to whoever watches the original.
    """
    memo = {id(p): _empty(p, device) for p in model.parameters()} if device else {}
    replica = copy.deepcopy(model, memo)
    for module in replica.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            hooks.clear()
        module._backward_pre_hooks.clear()
    replica.zero_grad(set_to_none=True)
    return replica.to(device) if device else replica


def _empty(parameter: nn.Parameter, device: str) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device=device), parameter.requires_grad)


def time_optimizer(
    optimizer: torch.optim.Optimizer, device: torch.device, *, limit: float = 0.3
) -> float:
    """Seconds of one step with the gradients that are there; a graph's where it can be captured.

    One step is timed, and up to 50 as long as ``limit`` seconds are not over.
    """
    work: Callable[[], object] = optimizer.step
    if device.type == "cuda":
        work = _captured(optimizer, device)
    if device.type == "cuda" or any(group.get("compile") for group in optimizer.param_groups):
        work()
    count, seconds = 0, 0.0
    while count < 1 or (seconds < limit and count < 50):
        seconds += _timed(work, device)
        count += 1
    return seconds / count


def _timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _captured(optimizer: torch.optim.Optimizer, device: torch.device) -> Callable[[], object]:
    recorder = CudaRecorder(device)

    def work() -> Tensor:
        optimizer.step()
        return torch.zeros((), device=device)

    try:
        recorder.rehearse(work, without_waiting=False)
        recorder.rehearse(work, without_waiting=True)
        replay, _ = recorder.record(work)
    except RuntimeError:  # it is launched in the run, too
        recorder.recover()
        return optimizer.step
    return replay


@functools.cache
def ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product on ``device``, the best of several; measured once."""
    side = 8192 if device.type == "cuda" else 1024
    stream = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(side, side, generator=stream, device=device).to(dtype) for _ in range(2)
    )
    times = [_timed(lambda: left @ right, device) for _ in range(10)]
    return 2.0 * side**3 / min(times)


def watch_memory(device: torch.device) -> None:
    """Begin to watch the peak of a GPU's memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mib(device: torch.device) -> float:
    """Return the largest memory since ``watch_memory`` on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def flops_until(step: int, cost: Cost, batch_size: int) -> float:
    """FLOPs of the first ``step`` steps: the model's, and the optimizer's matrix products."""
    return step * (cost.flops_per_sample * batch_size + cost.optimizer_flops)


def usage_summary(setup: Setup, cost: Cost | None, clock: Clock, steps: int) -> dict[str, Any]:
    """Return what a summary has of FLOPs, time and memory, by name.

    ``utilisation`` is the model's FLOPs (not the optimizer's) a second of training over the rate of
    a large matrix product in the run's precision, measured on this device, times their number.
    """
    device, batch_size = setup.device, setup.config.trainer.batch_size
    used: dict[str, Any] = {"memory/peak_mib": peak_mib(device)}
    if cost is None:
        return used
    used |= {
        "flops/sample": cost.flops_per_sample,
        "flops/optimizer_step": cost.optimizer_flops,
        "flops/total": flops_until(steps, cost, batch_size),
        "optimizer/seconds_per_step": cost.optimizer_seconds,
    }
    if steps and clock.training > 0:
        rate = cost.flops_per_sample * batch_size * steps / clock.training
        limit = _ceiling(device, setup.precision)
        used |= {
            "optimizer/share": cost.optimizer_seconds * steps / clock.training,
            "flops/per_second": rate,
            "flops/ceiling_per_second": limit,
            "utilisation": None if limit is None else rate / (limit * setup.team.size),
        }
    return used


def _ceiling(device: torch.device, precision: str) -> float | None:
    try:
        return ceiling(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    except torch.OutOfMemoryError:  # the network fills the device
        return None
