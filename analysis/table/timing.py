"""Which times may stand in one column: those of one device model, one packing, one code."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from analysis.table.rows import Run

SECONDS = "seconds_per_epoch"
_TIMING = ("seconds", "seconds_per_epoch", "per_second", "utilisation")


def is_timing(metric: str) -> bool:
    """Return whether a metric measures time: it says as much of the machine as of the run."""
    return metric.endswith(_TIMING)


def mixture(runs: Sequence[Run]) -> str | None:
    """Return why the times of ``runs`` (finished ones of one column) cannot be compared.

    One model of device, packed runs apart from unpacked ones, and one version of the code of each
    optimizer (by its ``_target_``). A run that does not say counts as its own kind only beside
    runs that do.
    """
    devices = sorted({str(run.get("provenance.device") or "a device not recorded") for run in runs})
    if len(devices) > 1:
        return f"they ran on {len(devices)} device models ({', '.join(devices)})"
    if len({_is_packed(run) for run in runs}) > 1:
        packed = sum(_is_packed(run) for run in runs)
        return f"{packed} of {len(runs)} runs shared their device with others (packed)"
    versions: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        target = str(run.get("config.optimizer._target_"))
        versions[target].add(str(run.get("provenance.optimizer_source")))
    for target, found in sorted(versions.items()):
        if len(found) > 1:
            return f"{len(found)} versions of the code of {target}"
    return None


def _is_packed(run: Run) -> bool:
    """Return whether a run shared its device; recorded as a flag or as how many shared it."""
    packed = run.get("provenance.packed")
    if packed is None or isinstance(packed, bool):
        return bool(packed)
    return float(packed) > 1
