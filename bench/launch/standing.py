"""How a run stands, by its folder and, where that cannot know, by the scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.run import RunFolder

if TYPE_CHECKING:
    from bench.config import RunConfig

# "untracked": trained, but its tracker does not have it yet; "interrupted": stopped, resumable.
State = Literal[
    "done",
    "diverged",
    "untracked",
    "running",
    "queued",
    "interrupted",
    "missing",
    "failed",
]
# In the order of a plan's line.
STATES: tuple[State, ...] = (
    "done",
    "diverged",
    "untracked",
    "running",
    "queued",
    "interrupted",
    "missing",
    "failed",
)


@dataclass(frozen=True)
class JobNews:
    """What the scheduler says of the job that was to carry out a run."""

    state: Literal["queued", "running", "ended"]
    kind: str | None  # of an end: out of memory, timeout, preempted, killed, exception
    log: Path | None
    job: str


@dataclass(frozen=True)
class Standing:
    """One run's state; ``kind``, ``reason`` and ``log`` of one that failed."""

    state: State
    kind: str | None = None
    reason: str | None = None
    log: Path | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in ("done", "diverged")

    @property
    def underway(self) -> bool:
        """Whether somebody is at it, or about to be."""
        return self.state in ("running", "queued")


def standing(folder: RunFolder, label: str, news: JobNews | None = None) -> Standing:
    """Return how the run in ``folder`` stands.

    ``label`` is that of the tracker that is to hold it; ``news`` is of the newest job that was to
    carry it out, if there is one.
    """
    status = folder.status
    state = status.get("state")
    if state in ("done", "diverged"):
        return Standing(state if label in status.get("tracked", []) else "untracked")
    if folder.owner is not None:
        return Standing("running")
    if news is not None and news.state != "ended":
        return Standing("queued" if news.state == "queued" else "running")
    log = folder.path / "log.txt"
    if state == "failed":
        kind = status.get("kind") or "exception"
        return Standing("failed", kind, status.get("cause"), log if log.exists() else None)
    if news is not None and news.kind is not None:
        last = log if log.exists() else news.log
        return Standing("failed", news.kind, f"its job {news.job} ended: {news.kind}", last)
    return Standing("interrupted" if state == "running" else "missing")


def run_folder(run: RunConfig, run_id: str) -> RunFolder:
    """Return the folder of a run."""
    return RunFolder(Path(run.runs_dir) / run_id)
