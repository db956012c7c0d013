"""Which times may stand in one column: those of one device model, one packing, one code."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TypeVar

from analysis.run.frame import SOURCES
from analysis.table.model import Run

SECONDS = "seconds_per_epoch"
GRAPH = "cuda_graph"  # whether a run's steps were in one; not told of a CPU
SHARED = "those runs shared their device with others of their launch, the rest had it alone"
_FAR = 5.0  # times the least: the small ones would be one line on a linear scale
UNEVEN = 1.2  # times the median: a run that took longer was not like the others
Row = TypeVar("Row", bound=Hashable)
_TIMING = ("seconds", "seconds_per_epoch", "seconds_per_step", "per_second", "utilisation")


def is_timing(metric: str) -> bool:
    """Return whether a metric measures time: it says as much of the machine as of the run."""
    return metric.endswith(_TIMING)


def far_apart(seconds: Sequence[float]) -> bool:
    """Return whether a figure needs a logarithmic scale for these ends of its lines."""
    return bool(seconds) and max(seconds) > _FAR * min(seconds)


def mixture(runs: Sequence[Run]) -> str | None:
    """Return why the times of ``runs`` (finished ones of one column) cannot be compared.

    One model of device, packed runs apart from unpacked ones, one version of the code of each part
    of an optimizer (by its ``_target_``), and steps in a CUDA graph or launched from Python, alike
    for all seeds of a variant. A run that does not say counts as its own kind only beside runs that
    do.
    """
    devices = sorted({str(run.get("provenance.device") or "a device not recorded") for run in runs})
    if len(devices) > 1:
        return f"they ran on {len(devices)} device models ({', '.join(devices)})"
    if len({is_packed(run) for run in runs}) > 1:
        packed = sum(is_packed(run) for run in runs)
        return f"{packed} of {len(runs)} runs shared their device with others (packed)"
    versions: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for target, digest in _sources(run).items():
            versions[target].add(digest)
    for target, found in sorted(versions.items()):
        if len(found) > 1:
            return f"{len(found)} versions of the code of {target}"
    return _graphs(runs)


def _sources(run: Run) -> dict[str, str]:
    """Return the digests of the code of a run's optimizer, by target."""
    told = run.get(SOURCES)
    if told is None:
        return {str(run.get("config.optimizer._target_")): str(told)}
    digests: dict[str, str | None] = json.loads(told)
    return {target: str(digest) for target, digest in digests.items()}


def sharing(rows: Mapping[Row, Sequence[Run]]) -> set[str]:
    """Return the ids of a column's runs that shared their device, where others had it alone.

    Their times are no times of the others; without them the others may still be compared. Empty
    where all runs are of the same kind.
    """
    every = [run for runs in rows.values() for run in runs]
    shared = {str(run["id"]) for run in every if is_packed(run)}
    return shared if len(shared) < len(every) else set()


def comparable(rows: Mapping[Row, Sequence[Run]]) -> tuple[set[str], str | None]:
    """Return the runs of a column that `sharing` sets apart, and the `mixture` of the others."""
    apart = sharing(rows)
    every = [run for runs in rows.values() for run in runs]
    return apart, mixture([run for run in every if str(run["id"]) not in apart])


def told_sharing(rows: Mapping[str, Sequence[Run]], apart: Collection[str]) -> str:
    """Return whose times are withheld, rows of like parts together: "soap; 5 of 10 runs of sgd"."""
    parts: dict[str, list[str]] = defaultdict(list)
    for label, runs in rows.items():
        count = sum(str(run["id"]) in apart for run in runs)
        if count:
            part = "" if count == len(runs) else f"{count} of {len(runs)} runs of "
            parts[part].append(label)
    return "; ".join(f"{part}{', '.join(labels)}" for part, labels in sorted(parts.items()))


def _graphs(runs: Sequence[Run]) -> str | None:
    """Return whose steps some seeds replayed from a CUDA graph and others launched from Python."""
    alike: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for run in runs:
        if (told := run.get(GRAPH)) is not None:
            alike[str(run.get("optimizer")), str(run.get("variant"))].append(bool(told))
    for (optimizer, _), told in sorted(alike.items()):
        if len(set(told)) > 1:
            return f"{told.count(False)} of {len(told)} runs of {optimizer} had no CUDA graph"
    return None


def is_packed(run: Run) -> bool:
    """Return whether a run shared its device; recorded as a flag or as how many shared it."""
    packed = run.get("provenance.packed")
    if packed is None or isinstance(packed, bool):
        return bool(packed)
    return float(packed) > 1
