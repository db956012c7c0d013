"""Processes of one machine that need the same code compile it once.

Runs of a sweep start together and differ by seed or learning rate, so that each process would
compile what the one beside it compiles at that moment. Here the first compiles and the others
wait; then all take the code from torch's cache, which is the machine's, in seconds.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

from bench import preemption

_MOST_SECONDS = 900.0  # longer than anything compiles here; then each compiles for itself
_POLL_SECONDS = 0.25


class Turn:
    """A process's turn to compile ``program``.

    Whoever had to wait lets the next one go at once: the code is there. If the first failed, or
    the cache is off, all then compile at the same time, as they would without this.

    Args:
        program: what is compiled, in any words that tell programs apart; None where nothing is.
        folder: of the locks; the machine's temporary files by default.
    """

    def __init__(self, program: str | None, folder: Path | None = None) -> None:
        self._lock: FileLock | None = None
        if program is not None:
            name = hashlib.sha256(program.encode()).hexdigest()[:16]
            folder = folder or Path(tempfile.gettempdir()) / f"spectral-bench-{os.getuid()}"
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / f"compiles-{name}.lock")

    def take(self) -> None:
        """Wait until no other process compiles the program, or this one is asked to stop."""
        if self._lock is None:
            return
        start, waited = time.monotonic(), False
        while time.monotonic() - start < _MOST_SECONDS and preemption.requested() is None:
            try:
                self._lock.acquire(timeout=_POLL_SECONDS)
            except Timeout:
                waited = True
                continue
            if waited:
                self.over()
            return

    def over(self) -> None:
        """The code is compiled, or will not be; may be said twice."""
        if self._lock is not None and self._lock.is_locked:
            self._lock.release()
