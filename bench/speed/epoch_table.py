"""What `bench.speed.epoch` prints: a row a loop, and how to read them."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table

from bench.speed.our_loop import Pace
from bench.speed.stopwatch import Epoch
from bench.training.accounting import Cost


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
    """Return the rows as a table for the terminal."""
    table = Table(box=box.ASCII_DOUBLE_HEAD, pad_edge=False)
    table.add_column("loop", no_wrap=True)
    names = ("s/epoch", "x first", "range", "for data s", "samples/s", "TFLOP/s", "of ceiling")
    for name in (*names, "peak MiB", "first epoch s"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
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
        )
    return table


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
