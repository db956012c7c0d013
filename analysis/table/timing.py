"""Which seconds may stand in one column: those of one device model, one packing, one code.

`comparable` alone decides; a table carries the decision on each of its columns (`Table.timing`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from analysis.run.frame import SOURCES
from analysis.table.model import Comparable, Run

SECONDS = "seconds_per_epoch"
GRAPH = "cuda_graph"  # whether a run's steps were in one; not recorded on a CPU
SHARED = "those runs shared their device with others of their launch, the rest had it alone"
_FAR = 5.0  # times the least: the small ones would be one line on a linear scale
UNEVEN = 1.2  # times the median: a run that took longer was not like the others
_TIMING = (
    "seconds", "seconds_per_epoch", "seconds_per_step", "per_second", "utilisation",
    "joules", "joules_per_epoch",
)  # fmt: skip


def is_timing(metric: str) -> bool:
    """Return whether a metric measures time or energy: as much of the machine as of the run."""
    return metric.endswith(_TIMING)


def far_apart(seconds: Sequence[float]) -> bool:
    """Return whether a figure needs a logarithmic scale for these ends of its lines."""
    return bool(seconds) and max(seconds) > _FAR * min(seconds)


def comparable(runs: Sequence[Run]) -> Comparable:
    """Return which seconds of ``runs`` (finished ones of one column) may be compared.

    Those of one model of device, one version of the code of each part of an optimizer (by its
    ``_target_``), and steps in a CUDA graph or launched from Python, the same for all seeds of a
    variant. A run that does not say counts as its own kind only beside runs that do.
    """
    shared = frozenset(str(run["id"]) for run in runs if is_packed(run))
    apart = shared if len(shared) < len(runs) else frozenset()
    return Comparable(apart, _mixture([run for run in runs if str(run["id"]) not in apart]))


def _mixture(runs: Sequence[Run]) -> str | None:
    devices = sorted({str(run.get("provenance.device") or "a device not recorded") for run in runs})
    if len(devices) > 1:
        return f"they ran on {len(devices)} device models ({', '.join(devices)})"
    versions: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for target, digest in _sources(run).items():
            versions[target].add(digest)
    for target, digests in sorted(versions.items()):
        if len(digests) > 1:
            return f"{len(digests)} versions of the code of {target}"
    return _graphs(runs)


def _sources(run: Run) -> dict[str, str]:
    """Return the digests of the code of a run's optimizer, by target."""
    recorded = run.get(SOURCES)
    if recorded is None:
        return {str(run.get("config.optimizer._target_")): str(recorded)}
    digests: dict[str, str | None] = json.loads(recorded)
    return {target: str(digest) for target, digest in digests.items()}


def whose(rows: Mapping[str, Sequence[Run]], apart: Collection[str]) -> str:
    """Return whose times are `apart`, rows of equal parts together: "soap; 5 of 10 runs of sgd"."""
    parts: dict[str, list[str]] = defaultdict(list)
    for label, runs in rows.items():
        count = sum(str(run["id"]) in apart for run in runs)
        if count:
            part = "" if count == len(runs) else f"{count} of {len(runs)} runs of "
            parts[part].append(label)
    return "; ".join(f"{part}{', '.join(labels)}" for part, labels in sorted(parts.items()))


def _graphs(runs: Sequence[Run]) -> str | None:
    """Return whose steps some seeds replayed from a CUDA graph and others launched from Python."""
    variants: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for run in runs:
        if (graph := run.get(GRAPH)) is not None:
            variants[str(run.get("optimizer")), str(run.get("variant"))].append(bool(graph))
    for (optimizer, _), graphs in sorted(variants.items()):
        if len(set(graphs)) > 1:
            return f"{graphs.count(False)} of {len(graphs)} runs of {optimizer} had no CUDA graph"
    return None


def is_packed(run: Run) -> bool:
    """Return whether a run shared its device; recorded as a flag or as how many shared it."""
    packed = run.get("provenance.packed")
    if packed is None or isinstance(packed, bool):
        return bool(packed)
    return float(packed) > 1
