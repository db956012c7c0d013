"""What `bench.speed.epoch` prints: a row a loop, and how to read them.

How long `bench.speed.epoch`'s own loops take to start, with an empty and with a filled cache.

Where the time of a step goes: kernels by class, and what is idle.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.errors import UserError
from bench.speed.loops import Pace
from bench.speed.stopwatch import Epoch
from bench.table_writer import Table
from bench.training.accounting import Cost

# A graph is tried at the third step, and nothing is new after it.
_ONCE = {"plain": False, "profile": False, "start": False, "epochs": 1, "steps": 4}


def starts(asked: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return seconds of compilation and warm-up of our loops, in order, by the cache's state.

    ``asked`` are the command's options. Two processes follow each other on one cache of compiled
    code, a folder that is "empty" for the first and "filled" by it for the second.

    Raises:
        UserError: one of them failed.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="spectral-bench-") as name:
        out = Path(name) / "start.json"
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(Path(name) / "cache")}
        environment.pop("TRITON_CACHE_DIR", None)  # else it would be beside, and not empty
        for state in ("empty", "filled"):
            done = subprocess.run(
                [sys.executable, "-m", "bench.speed.epoch", *arguments({**asked, "out": out})],
                env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise UserError(f"start=true: the process with the {state} cache failed: {reason}")
            rows = json.loads(out.read_text())["rows"]
            found[state] = [row["preparation"] for row in rows]
    return found


def arguments(asked: Mapping[str, Any]) -> list[str]:
    """Return the command line for these options, of our loops' first steps only."""
    return [f"{key}={_word(value)}" for key, value in {**asked, **_ONCE}.items()]


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


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


@dataclass(frozen=True)
class Row:
    """One loop's numbers.

    ``epochs`` are whole ones, scaled if only some steps were made; ``baseline`` the first loop's
    seconds in the same rounds. ``flops_per_sample`` of forward and backward; ``ceiling`` in FLOP/s.
    ``peak_mib``: of a GPU, beyond the data. The last three are of our loops only.
    """

    loop: str
    epochs: tuple[Epoch, ...]
    baseline: tuple[float, ...]
    first_epoch: float
    samples: int
    flops_per_sample: float
    ceiling: float
    peak_mib: float | None
    cost: Cost | None = None
    pace: Pace | None = None
    preparation: float | None = None

    @property
    def seconds(self) -> float:
        """The median epoch."""
        return statistics.median(epoch.seconds for epoch in self.epochs)

    @property
    def waiting(self) -> float:
        """Median of the seconds an epoch spent for batches."""
        return statistics.median(epoch.waiting for epoch in self.epochs)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Each round's epoch by the first loop's."""
        return tuple(
            mine.seconds / its for mine, its in zip(self.epochs, self.baseline, strict=True)
        )

    @property
    def ratio(self) -> float:
        """The median of ``ratios``."""
        return statistics.median(self.ratios)

    @property
    def samples_per_second(self) -> float:
        """Of the median epoch."""
        return self.samples / self.seconds

    @property
    def tflops(self) -> float:
        """The model's TFLOP/s in the median epoch."""
        return self.samples_per_second * self.flops_per_sample / 1e12

    @property
    def utilisation(self) -> float:
        """The model's FLOP/s over the ceiling."""
        return self.samples_per_second * self.flops_per_sample / self.ceiling

    def as_json(self) -> dict[str, Any]:
        """Return every number, by name."""
        names = ("seconds", "waiting", "ratio", "samples_per_second", "tflops", "utilisation")
        own = asdict(self)
        own["epochs"] = [epoch._asdict() for epoch in self.epochs]
        for name in ("cost", "pace"):
            value = getattr(self, name)
            own[name] = None if value is None else value._asdict()
        return {**own, "ratios": self.ratios, **{name: getattr(self, name) for name in names}}


def render(rows: list[Row]) -> Table:
    """Return the rows as a table."""
    cells = [
        [
            row.loop,
            f"{row.seconds:.3f}",
            _ratio(row.ratio),
            f"{_ratio(min(row.ratios))}-{_ratio(max(row.ratios))}",
            f"{row.waiting:.3f} ({row.waiting / row.seconds:.0%})",
            f"{row.samples_per_second:,.0f}",
            f"{row.tflops:.3g}",
            f"{row.utilisation:.1%}",
            "-" if row.peak_mib is None else f"{row.peak_mib:.0f}",
            f"{row.first_epoch:.1f}",
        ]
        for row in rows
    ]
    header = ("loop", "s/epoch", "x first", "range", "for data s", "samples/s", "TFLOP/s",
              "of ceiling", "peak MiB", "first epoch s")  # fmt: skip
    return Table(header, cells)


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 2 else f"{value:.1f}"


LEGEND = (
    "x first: median over rounds of the epoch by the first loop's in the same round; "
    "for data: until the\nloop has its batches; first epoch: with compilation and workers' start"
)


def step_lines(rows: list[Row], steps_per_epoch: int) -> list[str]:
    """Say what a step of each of our loops consists of."""
    lines = []
    for row in rows:
        if row.cost is None:
            continue
        step, alone = row.seconds / steps_per_epoch, row.cost.optimizer_seconds
        parts = [
            f"{row.loop}: a step {1e3 * step:.2f} ms; the optimizer alone {1e3 * alone:.2f} ms"
            f" ({alone / step:.0%}), {row.cost.optimizer_flops / 1e9:.1f} GFLOP"
        ]
        if row.pace is not None:
            host, device = row.pace
            who = "the device" if host < device else "the host"
            parts.append(f"host {host:.2f} ms, device {device:.2f} ms: {who} is the bottleneck")
        if row.preparation:
            parts.append(f"compilation and warm-up {row.preparation:.1f} s")
        lines.append("; ".join(parts))
    return lines
