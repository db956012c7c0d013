"""What the runs of a plan will cost, from what finished runs like them have cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.files import read_json
from bench.launch.plan import Planned

# From the most to the least alike; a run is priced by the first group that has a finished run.
_ALIKE = (("dataset", "model", "optimizer"), ("dataset", "model"))


@dataclass(frozen=True)
class Cost:
    """Hours of one device for the runs that have a precedent; ``unknown`` have none."""

    hours: float
    priced: int
    unknown: int
    precedents: int
    device: str

    def __str__(self) -> str:
        if not self.priced:
            return f"no estimate: no finished run is like these {self.unknown}"
        unit = "GPU-hours" if self.device == "cuda" else "CPU-hours"
        text = (
            f"about {self.hours:.2g} {unit} for {self.priced} runs, by {self.precedents} past runs"
        )
        return f"{text}; {self.unknown} without precedent" if self.unknown else text


def estimate(runs: Iterable[Planned]) -> Cost:
    """Estimate the cost of ``runs`` by the finished runs in their ``runs_dir``.

    The estimate is epochs times the mean seconds of an epoch, evaluation and checkpoints included,
    of the finished runs of the same dataset, model and optimizer, or else of the same dataset and
    model. What runs did before an interruption is not subtracted.
    """
    runs = list(runs)
    seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
    devices, precedents = set(), 0
    for root in {run.job.config.runs_dir for run in runs}:
        for names, cost, device in _finished(Path(root)):
            precedents += 1
            devices.add(device)
            for group in _ALIKE:
                seconds[_key(names, group)].append(cost)
    total, priced = 0.0, 0
    for run in runs:
        config = run.job.config
        known = (seconds.get(_key(config.names, group)) for group in _ALIKE)
        alike = next((found for found in known if found), None)
        if alike is not None:
            total += fmean(alike) * config.trainer.epochs
            priced += 1
    device = "cuda" if "cuda" in devices else "cpu"
    return Cost(total / 3600, priced, len(runs) - priced, precedents, device)


def _key(names: Mapping[str, str], group: tuple[str, ...]) -> tuple[str, ...]:
    return (*group, *(names[key] for key in group))


def _finished(root: Path) -> Iterator[tuple[dict[str, str], float, str]]:
    """Yield names, seconds an epoch and device type of each finished run below ``root``."""
    for path in root.glob("*/summary.json"):
        summary = read_json(path) or {}
        config = read_json(path.with_name("config.json")) or {}
        attempts = (read_json(path.with_name("provenance.json")) or {}).get("attempts") or [{}]
        epochs = summary.get("epochs", 0)
        if summary.get("state") == "done" and epochs and "names" in config:
            yield config["names"], _seconds(summary) / epochs, str(attempts[-1].get("device_type"))


def _seconds(summary: dict[str, Any]) -> float:
    clocks = (value for key, value in summary.items() if key.startswith("clock/"))
    return sum(float(value) for value in clocks)
