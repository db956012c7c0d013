"""Processes that need the same code at the same time compile it once.

Runs of a sweep start together and differ by seed or learning rate, so that each process would
compile what the one beside it compiles at that moment. Here the first compiles and the others
wait; then all take the code from the cache that they share. A marker shows that it is there, so
that whoever comes later waits for nobody who only loads it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from bench import preemption
from bench.lock import HeldError, Lock, UnreadableError
from bench.setup import Setup

_MOST_SECONDS = 900.0  # longer than anything compiles here; then each compiles for itself
_POLL_SECONDS = 0.5
_here: set[str] = set()  # names of programs that this process has compiled, or taken over


class CompileLock:
    """The lock under which ``program`` is compiled: a context, or :meth:`take` and :meth:`over`.

    A context that is left by an exception has not compiled it.

    Whoever had to wait lets the next one go at once: the code is there. Where it is not, since the
    first failed, say, all compile at the same time, as they would without this; so they do where no
    lock can be had. A process that has had it does not wait again, nor does anybody once the
    program was compiled; where that code is gone or does not fit, again all compile at once.

    Args:
        program: what is compiled, in any text that tells programs apart; torch's version is added.
        folder: of locks and markers, beside the cache; None where nothing is compiled.
        note: is given a line if there is to be waiting.
    """

    def __init__(
        self, program: str, folder: Path | None, note: Callable[[str], None] = print
    ) -> None:
        text = f"{folder}\n{torch.__version__}\n{program}"  # another torch compiles anew
        self._name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._folder, self._note = folder, note
        self._lock: Lock | None = None  # as long as it is held

    @classmethod
    def of(cls, what: str, setup: Setup) -> CompileLock:
        """Return the lock of a run's code; the ranks of one run, who need one another, have none.

        Locks lie beside torch's cache (`Setup.prepare`): whoever shares it shares them.

        Args:
            what: of the run is compiled.
            setup: of the run.
        """
        cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        if not cache or not setup.config.trainer.compile or setup.team.size > 1:
            return cls(what, None)
        # A cache may be shared by machines of other GPUs, and sources edited: compiled anew.
        cuda = setup.device.type == "cuda"
        kind = torch.cuda.get_device_name(setup.device) if cuda else setup.device.type
        program = f"{what} {kind} {setup.sources} {setup.compile_key}"
        return cls(program, Path(cache) / "locks", setup.note)

    def __enter__(self) -> CompileLock:
        self.take()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.over(compiled=kind is None)

    def take(self) -> None:
        """Wait until no other process compiles the program, unless one has before.

        Raises:
            StopRequested: this process was asked to stop meanwhile.
        """
        if self._folder is None or self._lock is not None or self._name in _here:
            return
        lock = Lock(self._folder / f"{self._name}.lock")
        try:
            if self._marker(self._folder).exists():
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._waited_for(lock):
                lock.release()
            else:
                self._lock = lock
        except OSError:  # a folder of somebody else's, say
            pass

    def over(self, *, compiled: bool) -> None:
        """The code is ``compiled``, or will not be; may be called twice."""
        _here.add(self._name)
        if compiled and self._folder is not None:
            with suppress(OSError):  # as with locks: a folder of somebody else's, say
                self._marker(self._folder).touch()  # before others get the lock
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _marker(self, folder: Path) -> Path:
        return folder / f"{self._name}.done"

    def _waited_for(self, lock: Lock) -> bool:
        """Get the lock, or give it up after a long time; return whether another had it first."""
        start, waited = time.monotonic(), False
        while time.monotonic() - start < _MOST_SECONDS:
            try:
                lock.attempt()
            except UnreadableError:  # whose it is, and for how long, nobody can say
                return True
            except HeldError:
                if not waited:
                    self._note("waits for a process that compiles the same code")
                waited = True
            else:
                return waited
            if preemption.requested() is not None:
                raise preemption.StopRequested(
                    f"{preemption.requested()} while another process compiled"
                )
            time.sleep(_POLL_SECONDS)
        return True
