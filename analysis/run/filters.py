"""Which runs are asked for: of a sweep, with a tag, in a state; the same choice in every source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.run.frame import STATES, RunRecord, nearest

# These outrank a run's other attempts (see `analysis.run.wandb_runs.server_records`), so a server
# must tell them whatever state is asked for.
_FINAL = ("done", "diverged")


@dataclass(frozen=True)
class Filters:
    """Which runs: of a sweep (W&B's group), with any of some tags, in any of some states.

    Empty means all.

    Raises:
        ValueError: a state that no run has.
    """

    sweep: str | None = None
    tags: tuple[str, ...] = ()
    states: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for state in self.states:
            if state not in STATES:
                known = nearest(state, STATES) or f"; known: {', '.join(STATES)}"
                raise ValueError(f"unknown state {state!r}{known}")

    def query(self) -> dict[str, Any]:
        """Return the filters as a server takes them; they may let more through than `fits`.

        A run's state is what it wrote into its summary. One that is running wrote none yet, which
        no filter can ask for: then the server tells runs of every state.
        """
        asked: dict[str, Any] = {}
        if self.sweep is not None:
            asked["group"] = self.sweep
        if self.tags:
            asked["tags"] = {"$in": list(self.tags)}
        if self.states and "running" not in self.states:
            asked["summary_metrics.state"] = {"$in": sorted({*self.states, *_FINAL})}
        return asked

    def fits(self, run: RunRecord) -> bool:
        """Return whether a run is meant."""
        tracker = run.config.get("tracker")
        own = tracker.get("tags") if isinstance(tracker, Mapping) else None
        return (
            (not self.tags or bool(set(self.tags) & set(own or ())))
            and (self.sweep is None or run.config.get("sweep") == self.sweep)
            and (not self.states or run.state in self.states)
        )
