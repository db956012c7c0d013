"""What a run used: FLOPs, the optimizer's share, the device's utilisation, memory."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch

from bench.training.accounting import Cost, ceiling
from bench.training.clock import Clock


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


def usage_summary(
    cost: Cost | None,
    clock: Clock,
    *,
    steps: int,
    batch_size: int,
    device: torch.device,
    precision: str,
    devices: int = 1,
) -> dict[str, Any]:
    """Return what a summary says of FLOPs, time and memory, by name.

    ``utilisation`` is the model's FLOPs (not the optimizer's) a second of training over the rate of
    a large matrix product in the run's precision, measured on this device, times ``devices``.
    """
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
        limit = _ceiling(device, precision)
        used |= {
            "optimizer/share": cost.optimizer_seconds * steps / clock.training,
            "flops/per_second": rate,
            "flops/ceiling_per_second": limit,
            "utilisation": None if limit is None else rate / (limit * devices),
        }
    return used


def _ceiling(device: torch.device, precision: str) -> float | None:
    try:
        return ceiling(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    except torch.OutOfMemoryError:  # the network fills the device
        return None
