"""The run folder: one run's config, status, history, summary, checkpoints and provenance.

Every write is atomic. A checkpoint is the point of commitment: rows after it are written again.
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import UserError
from bench.files import read_json, read_json_lines, write_atomically, write_json, write_json_lines
from bench.lock import HeldError, Lock, UnreadableError, owner_of
from bench.preemption import StopRequested

if TYPE_CHECKING:
    from filelock import OwnerRecord


# What lies in a run folder.
CONFIG = "config.json"  # the whole resolved config, with the run's id and variant
STATUS = "status.json"  # state (running, done, failed, diverged), cause, trackers that have it all
LOG = "log.txt"  # what the run printed in a worker process
HISTORY = "history.jsonl"  # a row a logged step and epoch; no clock in it, so it can be compared
SUMMARY = "summary.json"  # one number a name: what tables need
CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.prev.pt"
PROVENANCE = "provenance.json"  # code, versions, device: one entry an attempt
EXPONENTS = "exponents.parquet"  # what was fitted to each layer's directions

State = Literal["running", "done", "failed", "diverged"]
Kind = Literal["out of memory", "timeout", "preempted", "killed", "exception"]
Row = dict[str, Any]


def is_run(path: Path) -> bool:
    """Return whether ``path`` is a run folder: it has a config."""
    return (path / CONFIG).is_file()


class BusyError(UserError):
    """Another process is working on the run."""


class RunFolder:
    """One run's folder ``<runs_dir>/<id>``; made when work begins, not before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock(path / ".lock")
        self._taken = False

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def _read(self, name: str) -> dict[str, Any]:
        return read_json(self.path / name) or {}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self._check_lock()
        write_json(self.path / name, content)

    # -- status ---------------------------------------------------------------------------------

    @property
    def status(self) -> dict[str, Any]:
        """The content of status.json, empty for a run that never began."""
        return self._read(STATUS)

    @property
    def finished(self) -> bool:
        """Whether the run has its result; a diverged run is a result too."""
        return self.status.get("state") in ("done", "diverged")

    @property
    def tracked(self) -> list[str]:
        """Labels of the trackers that hold the whole run."""
        return list(self.status.get("tracked", []))

    def add_tracked(self, label: str) -> None:
        """Note that the tracker of this label holds the whole run."""
        status = self.status
        self.set_status(status["state"], status["cause"], [*self.tracked, label])

    def set_status(
        self,
        state: State,
        cause: str | None = None,
        tracked: Sequence[str] = (),
        kind: Kind | None = None,
    ) -> None:
        """Write the state, its cause, and the labels of the trackers that hold the whole run.

        ``kind`` is the kind of failure, of one that failed.
        """
        status = {
            "state": state,
            "cause": cause,
            "kind": kind,
            "tracked": list(tracked),
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }
        self._write(STATUS, status)

    @property
    def log(self) -> Path:
        """Where a worker process keeps what the run prints."""
        return self.path / LOG

    @property
    def owner(self) -> OwnerRecord | None:
        """The living process that works on the run, on whatever machine, if there is one."""
        return owner_of(self._lock.path)

    def acquire(self, *, patient: bool = False) -> None:
        """Take the run for this process until release(), or until the process ends, however.

        ``patient``: wait until it is clear that a process of another machine lives; the lock of a
        machine that was lost looks alive for a while.

        Raises:
            BusyError: another process, of this or another machine, is working on the run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(patient=patient, say=self._note)
        except UnreadableError as error:
            raise BusyError(str(error)) from error
        except HeldError as error:
            raise BusyError(
                f"{self.path}: {error} is working on this run; wait for it or end it"
            ) from error
        self._taken = True
        for torn in self.path.glob(".*.tmp"):  # a kill in the middle of a write leaves these
            torn.unlink(missing_ok=True)

    def _note(self, line: str) -> None:
        print(f"{self.path.name}: {line}", file=sys.stderr, flush=True)

    def release(self) -> None:
        """Let other processes have the run."""
        self._lock.release()
        self._taken = False

    @contextmanager
    def held(self, *, patient: bool = False) -> Iterator[None]:
        """Hold the run for as long as the context lasts: see ``acquire``."""
        self.acquire(patient=patient)
        try:
            yield
        finally:
            self.release()
            with suppress(OSError):  # something is in it: the run was not refused
                self.path.rmdir()

    def _check_lock(self) -> None:
        """Write nothing into a run that another process took over, this one having been asleep."""
        if self._taken and not self._lock.held:
            raise StopRequested(f"{self.path}: another process has taken this run over")

    # -- what is written ------------------------------------------------------------------------

    def begin(self, config: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Write the config and this attempt's provenance, and mark the run as running."""
        self._write(CONFIG, config)
        attempts = self.provenance.get("attempts", [])
        # Once packed, always packed: the time of the whole run is not that of one alone.
        packed = max((one.get("packed", 1) for one in (*attempts, provenance)), default=1)
        provenance |= {"packed": packed} if packed > 1 else {}
        # W&B keeps the latest attempt alone; what it began with decides what it was registered for.
        first = attempts[0].get("started") if attempts else None
        provenance |= {"began": first} if first else {}
        self._write(PROVENANCE, {"attempts": [*attempts, provenance]})
        self.set_status("running")

    def commit(self, history: list[Row], checkpoint: dict[str, Any]) -> None:
        """Write history and checkpoint; a kill between the two loses nothing but time."""
        import torch  # seconds; whoever only looks at runs does without

        self.write_history(history)
        current, previous = self.path / CHECKPOINT, self.path / PREVIOUS
        fresh = self.path / ".checkpoint.new.pt"
        write_atomically(fresh, lambda stream: torch.save(checkpoint, stream))
        if current.exists():
            current.replace(previous)
        fresh.replace(current)

    def write_history(self, history: list[Row]) -> None:
        """Replace history.jsonl; rows beyond the checkpoint are for readers, and never resumed."""
        self._check_lock()
        write_json_lines(self.path / HISTORY, history)

    def finish(self, state: State, cause: str | None, summary: dict[str, Any]) -> None:
        """Write the summary, then the final state."""
        self._write(SUMMARY, summary)
        self.set_status(state, cause)

    # -- what is read ---------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json, empty where there is none."""
        return self._read(CONFIG)

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json, empty where there is none."""
        return self._read(SUMMARY)

    @property
    def provenance(self) -> dict[str, Any]:
        """The content of provenance.json, empty where there is none."""
        return self._read(PROVENANCE)

    def history(self, up_to_step: int | None = None) -> list[Row]:
        """Return the rows written so far, without those after ``up_to_step``."""
        rows = read_json_lines(self.path / HISTORY)
        return [row for row in rows if up_to_step is None or row["step"] <= up_to_step]

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return the newest readable checkpoint; warn where that is not the newest one."""
        import torch

        for name in (CHECKPOINT, PREVIOUS):
            path = self.path / name
            if not path.exists():
                continue
            try:
                loaded = torch.load(path, map_location="cpu", weights_only=True)
                if not isinstance(loaded, dict):
                    raise TypeError(f"it holds a {type(loaded).__name__}")
            except Exception as error:  # a torn file fails in many ways; all mean "use another"
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                warnings.warn(
                    f"{path} cannot be read ({reason}); using an earlier state of the run",
                    stacklevel=2,
                )
                continue
            return loaded
        return None


def result_line(folder: RunFolder) -> str:
    """Return "done" with the run's result, or "diverged" with its cause."""
    status, summary = folder.status, folder.summary
    if status["state"] == "diverged":
        return f"diverged, {status['cause']}"
    text = f"done, test accuracy {100 * summary['test/accuracy']:.2f} %"
    if "val/bigram_entropy" in summary:
        unigram, bigram = summary["val/unigram_entropy"], summary["val/bigram_entropy"]
        text += f", validation loss {summary['val/loss']:.4f} nats a token"
        text += f" (entropies: unigram {unigram:.4f}, bigram {bigram:.4f})"
    seconds = summary["clock/data_seconds"] + summary["clock/step_seconds"]
    return f"{text}, {seconds:.1f} s of training"
