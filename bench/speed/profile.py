"""Where the time of a step goes: kernels by class, and what is idle."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# The first pattern that is found in a kernel's (or, on the CPU, an operator's) name decides.
_CLASSES = (
    ("copies", r"memcpy|memset|^aten::copy_$|nchwtonhwc|nhwctonchw"),
    ("optimizer", r"adam|multi_tensor_apply|_foreach|sgd"),
    ("attention", r"flash|fmha|attention"),
    ("normalisation", r"batch_?norm|layer_?norm|bn_(fw|bw)|native_norm"),
    ("convolution", r"conv|implicit|fprop|dgrad|wgrad|winograd|xmma|mkldnn"),
    ("matrix products", r"gemm|cublas|cutlass|nvjet|::(add)?mm$|::bmm$|linear"),
)
_OTHER = "elementwise and other"


def kind(name: str) -> str:
    """Return the class of a kernel or operator by its name."""
    lowered = name.lower()
    for label, pattern in _CLASSES:
        if re.search(pattern, lowered):
            return label
    return _OTHER


def breakdown(work: Callable[[], object], device: torch.device, steps: int) -> dict[str, float]:
    """Return milliseconds a step by class, over ``steps`` calls of ``work``.

    On CUDA of the kernels (a graph's too), with "idle" what no kernel covers; on the CPU each
    operator's own time.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    work()
    with profile(activities=activities) as recorded:
        for _ in range(steps):
            work()
        if cuda:
            torch.cuda.synchronize(device)
    if not cuda:
        return _operators(recorded.key_averages(), steps)
    kernels = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in recorded.events() or []
        if event.device_type.name == "CUDA"
    ]
    return _kernels(kernels, steps)


def _operators(averages: Iterable[Any], steps: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in averages:
        label = kind(row.key)
        found[label] = found.get(label, 0.0) + row.self_cpu_time_total / 1e3 / steps
    return _sorted(found)


def _kernels(kernels: Iterable[tuple[str, float, float]], steps: int) -> dict[str, float]:
    """Sum kernels ``(name, start, end)``, in microseconds; overlaps count for the earlier one."""
    found: dict[str, float] = {}
    ordered = sorted(kernels, key=lambda kernel: kernel[1])
    if not ordered:
        return {}
    reached, idle = ordered[0][1], 0.0
    for name, start, end in ordered:
        idle += max(start - reached, 0.0)
        alone = max(end - max(start, reached), 0.0)
        label = kind(name)
        found[label] = found.get(label, 0.0) + alone / 1e3 / steps
        reached = max(reached, end)
    return {**_sorted(found), "idle": idle / 1e3 / steps}


def _sorted(found: dict[str, float]) -> dict[str, float]:
    return dict(sorted(found.items(), key=lambda item: -item[1]))
