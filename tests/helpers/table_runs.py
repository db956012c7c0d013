"""Runs of a table, without folders, and its only cell."""

from __future__ import annotations

from typing import Any

from analysis.run.frame import RunRecord
from analysis.table.model import Cell, Table


def record(
    runs: Any, accuracy: float, seed: int = 0, state: str = "done", **changes: Any
) -> RunRecord:
    own = ("seconds_per_epoch", "energy/joules")
    more = {name: changes.pop(name) for name in own if name in changes}
    provenance = changes.pop("provenance", {})
    config = runs.config(changes.pop("optimizer", "adamw"), seed, **changes)
    summary = runs.summary(accuracy, state, **more)
    return RunRecord(config["id"], state, config, summary, provenance)


def only(table: Table) -> Cell:
    ((cell,),) = table.cells
    return cell
