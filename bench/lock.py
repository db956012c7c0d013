"""A lock that one process in the world holds: filelock's lease, on any shared file system.

The lock is a file that names its holder, and its modification time is the holder's heartbeat. A
dead process of this machine is replaced at once. Any other is replaced when we have watched its
heartbeat stand still for ``STALE`` seconds of our own clock: no two clocks are compared. A holder
that was only asleep finds by ``held`` that the lock is not its own any more.

Three things filelock 4.3 leaves to us. It replaces a stale lock by exchanging two names, which NFS
and other cluster file systems refuse, so there a stale lock would stay for ever. It takes a process
that nobody has reaped for a living one. It tells machines apart by their host names alone.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import LeaseSettingsMismatch, MarkerSoftFileLock, SoftFileLease, Timeout

if TYPE_CHECKING:
    from filelock import OwnerRecord

BEAT = 10.0  # seconds from one heartbeat to the next
STALE = 180.0  # of silence; all processes that share a lock must agree on it
_LEGIBLE = 1.0  # seconds in which whoever made a lock file has written its name into it


class HeldError(Exception):
    """Another process holds the lock; its text names it."""


class UnreadableError(HeldError):
    """Nobody can say who holds the lock; its text is a sentence with the way out."""


class Lock:
    """The lock at ``path``."""

    def __init__(
        self, path: Path, *, beat: float | None = None, stale: float | None = None
    ) -> None:
        self.path = path
        self._beat, self._stale = beat or BEAT, stale or STALE
        self._seen: tuple[str | None, int] | None = None  # the holder's token, its heartbeat
        self._since = 0.0  # when we saw that first
        self._moved = False  # whether we have seen a sign of life

    @cached_property
    def _lease(self) -> SoftFileLease:
        return SoftFileLease(
            self.path,
            lease_duration=self._stale,
            heartbeat_interval=self._beat,
            thread_local=False,
        )

    def acquire(
        self, *, patient: bool = False, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Take the lock; watch a holder that looks silent until it is clear whether it lives.

        Args:
            patient: watch any holder of another machine, also one that looks alive.
            say: is given a line if there is to be watching.

        Raises:
            HeldError: a living process holds it.
        """
        self._seen, self._moved, announced = None, False, False
        while True:
            try:
                return self.attempt()
            except UnreadableError:
                raise
            except HeldError as held:
                holder = _read(self.path)
                watched = patient and (holder is None or not _here(holder))
                if self._moved or not (watched or self._looks_silent()):
                    raise
                if not announced:
                    say(f"watches {held} for a sign of life, {self._stale:.0f} seconds at most")
                announced = True
            time.sleep(min(1.0, self._stale / 20))

    def attempt(self) -> None:
        """Take the lock if it is free or stale now; each attempt watches the holder on.

        Raises:
            HeldError: a process holds it that is not known to be dead.
        """
        if self._lease.is_locked:
            if self.held:
                raise HeldError(f"process {os.getpid()} on {socket.gethostname()}")
            self._lease.release(force=True)  # what is left of a lock that was lost
        holder = self._look()
        quiet = self._watch(holder)
        if holder is not None and _namesake(holder) and not self._looks_silent():
            raise HeldError(describe(holder))  # filelock would take it for a dead process of ours
        if self._taken():
            return
        # A little longer than filelock waits: what it can replace, it has replaced by now.
        if holder is not None and (_dead(holder) or quiet > 1.1 * self._stale):
            self._set_aside(holder)
            if self._taken():
                return
        holder = _read(self.path) or holder
        raise HeldError("another process" if holder is None else describe(holder))

    def release(self) -> None:
        """Give the lock back; nothing happens if it was never held, or was lost."""
        self._lease.release(force=True)

    @property
    def held(self) -> bool:
        """Whether the lock is ours, by what is on disk now."""
        holder = _read(self.path)
        return holder is not None and holder.token == self._lease.token

    def _taken(self) -> bool:
        """Let filelock try; return whether the lock is ours."""
        try:
            self._lease.acquire(blocking=False)
        except (Timeout, LeaseSettingsMismatch):
            return False
        except PermissionError:  # another user's lock, or a folder that is not ours to write in
            if self.path.exists():
                return False
            raise
        return True

    def _look(self) -> OwnerRecord | None:
        """Return who holds the lock; None where it is free."""
        deadline = time.monotonic() + _LEGIBLE
        while (holder := _read(self.path)) is None and self.path.exists():
            if time.monotonic() > deadline:
                raise UnreadableError(
                    f"{self.path}: this lock cannot be read, or is of an older version; make sure "
                    "that no process works here, then delete the file"
                )
            time.sleep(0.05)
        return holder

    def _watch(self, holder: OwnerRecord | None) -> float:
        """Return the seconds for which we have seen the heartbeat stand still."""
        beat = _heartbeat(self.path)
        seen = None if holder is None or beat is None else (holder.token, beat)
        if seen is None or seen != self._seen:
            self._moved = self._moved or (seen is not None and self._seen is not None)
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since

    def _looks_silent(self) -> bool:
        """Whether the last heartbeat is far from now, by clocks that need not agree: a hint."""
        beat = _heartbeat(self.path)
        return beat is None or abs(time.time() - beat / 1e9) > self._stale

    def _set_aside(self, stale: OwnerRecord) -> None:
        """Remove a stale lock that filelock could not replace."""
        if _read(self.path) != stale:
            return
        aside = self.path.with_name(f"{self.path.name}.{secrets.token_hex(8)}.stale")
        try:
            self.path.rename(aside)
        except FileNotFoundError:  # released or taken over meanwhile
            return
        if _read(aside) != stale:  # a new holder came between: what we moved is its lock
            with suppress(FileExistsError):
                os.link(aside, self.path)
        aside.unlink(missing_ok=True)


def owner_of(path: Path, stale: float = STALE) -> OwnerRecord | None:
    """Return the living holder of the lock at ``path``; None where it is free or stale.

    The heartbeat of another machine is compared with this machine's clock, so this is for showing;
    ``Lock.acquire`` decides.
    """
    beat = _heartbeat(path)
    if beat is None:
        return None
    holder = _read(path)
    if holder is None or _dead(holder):
        return None
    return holder if _here(holder) or time.time() - beat / 1e9 < stale else None


def describe(holder: OwnerRecord) -> str:
    """Return the process and its machine, in words."""
    return f"process {holder.pid} on {holder.hostname.partition('?')[0]}"


def _read(path: Path) -> OwnerRecord | None:
    return MarkerSoftFileLock(path).owner


def _heartbeat(path: Path) -> int | None:
    """Return when the holder last showed that it lives, in nanoseconds of the server's clock."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


@cache
def _myself() -> OwnerRecord:
    """Return what filelock writes of this process, or of the one that it was forked from."""
    with tempfile.TemporaryDirectory() as folder:
        lock = MarkerSoftFileLock(Path(folder) / "lock")
        with lock:
            myself = lock.owner
    assert myself is not None
    return myself


def _boot_of(holder: OwnerRecord) -> int:
    """Return what filelock puts before a process's start to tell boots apart; 0: not known."""
    return 0 if holder.start is None else holder.start >> 64


def _namesake(holder: OwnerRecord) -> bool:
    """Whether it is of a machine with our name, but of another boot: ours before, or another."""
    boots = {_boot_of(holder), _boot_of(_myself())}
    return holder.hostname == _myself().hostname and len(boots - {0}) == 2


def _here(holder: OwnerRecord) -> bool:
    """Whether it is, or was, a process of this machine since it was started."""
    return holder.hostname == _myself().hostname and not _namesake(holder)


def _dead(holder: OwnerRecord) -> bool:
    """Whether it was a process of this machine that is no more."""
    if not _here(holder):
        return False
    began = started(holder.pid)
    known = holder.start is not None and began not in ("", "unknown")
    return began == "" or (known and began != str((holder.start or 0) % 2**64))


def machine() -> str:
    """Return this boot and process namespace: within it, a pid means one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def started(pid: int) -> str:
    """Return when the process began (a pid is used again, with another time); empty if dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "" if Path("/proc").exists() or not _exists(pid) else "unknown"
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
