"""Timing of work side by side, in rounds of each candidate once; progress on standard error."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

_START = time.monotonic()


def progress(text: str) -> None:
    """Print ``text`` after the seconds since the process came here."""
    print(f"[{time.monotonic() - _START:4.0f} s] {text}", file=sys.stderr, flush=True)


Work = Callable[[], object]


class Epoch(NamedTuple):
    """An epoch of a training loop, or its first steps; seconds, and those spent for batches.

    ``waiting`` counts until the loop has its batch: of data on a GPU, until their making is
    launched.
    """

    seconds: float
    steps: int
    waiting: float

    def scaled(self, steps: int) -> Epoch:
        """Return what ``steps`` such steps take."""
        factor = steps / self.steps
        return Epoch(self.seconds * factor, steps, self.waiting * factor)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: median and quartiles over rounds."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]

    def ratio_to(self, other: Timing) -> float:
        """Median over rounds of this time by the other's in the same round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


def side_by_side(
    works: Mapping[str, Work], device: torch.device, *, rounds: int, calls: int
) -> dict[str, Timing]:
    """Time ``works`` in ``rounds``, each once a round; a time is the mean of ``calls`` calls."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(_milliseconds(work, device, calls))
    return {name: _timing(values) for name, values in times.items()}


def _milliseconds(work: Work, device: torch.device, calls: int) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - start) / calls * 1e3
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(calls):
        work()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end)) / calls


def _timing(values: list[float]) -> Timing:
    several = len(values) > 1  # inclusive: the other method goes beyond the smallest and largest
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if several else values * 3
    return Timing(statistics.median(values), quartiles[0], quartiles[2], tuple(values))
