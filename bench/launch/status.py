"""A run's status, by its folder and, where that cannot know, by the scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from bench.run_folder import RunFolder

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
# In the order of a plan's line, which is that of the names above.
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class JobStatus:
    """The scheduler's status of the job that was to carry out a run."""

    state: Literal["queued", "running", "ended"]
    kind: str | None  # of an end: out of memory, timeout, preempted, killed, exception
    log: Path | None
    job: str


@dataclass(frozen=True)
class RunStatus:
    """One run's status: its state; ``kind``, ``reason`` and ``log`` of one that failed."""

    state: State
    kind: str | None = None
    reason: str | None = None
    log: Path | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in ("done", "diverged")


def run_status(folder: RunFolder, label: str, job_status: JobStatus | None = None) -> RunStatus:
    """Return the status of the run in ``folder``.

    ``label`` is that of the tracker that is to hold it; ``job_status`` is of the newest job that
    was to carry it out, if there is one.
    """
    status = folder.status
    state = status.get("state")
    if state in ("done", "diverged"):
        return RunStatus(state if label in status.get("tracked", []) else "untracked")
    if folder.owner is not None:
        return RunStatus("running")
    if job_status is not None and job_status.state != "ended":
        return RunStatus("queued" if job_status.state == "queued" else "running")
    log = folder.log
    if state == "failed":
        kind = status.get("kind") or "exception"
        return RunStatus("failed", kind, status.get("cause"), log if log.exists() else None)
    if job_status is not None and job_status.kind is not None:
        last = log if log.exists() else job_status.log
        return RunStatus(
            "failed", job_status.kind, f"its job {job_status.job} ended: {job_status.kind}", last
        )
    return RunStatus("interrupted" if state == "running" else "missing")


def run_folder(run: RunConfig, run_id: str) -> RunFolder:
    """Return the folder of a run."""
    return RunFolder(Path(run.runs_dir) / run_id)
