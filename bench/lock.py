"""A lock that one process in the world holds: a file with a heartbeat, for any shared file system.

``flock`` is local on some cluster file systems, so it cannot keep two nodes apart. Here the lock
is a file that only its creator's name can appear under (``link`` is atomic everywhere), and its
modification time is the owner's heartbeat, written and compared by the file server's own clock.

A lock is stale when its owner is a dead process of this machine, which shows at once, or when its
heartbeat has stopped for ``STALE`` seconds. A stale lock is moved aside before it is replaced; an
owner that was only asleep finds by ``held`` that the lock is not its own any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

BEAT = 10.0  # seconds from one heartbeat to the next
STALE = 180.0  # three times the minute for which NFS may show an old modification time


@dataclass(frozen=True)
class Owner:
    """Who holds a lock; ``machine`` and ``started`` make ``pid`` unambiguous."""

    token: str
    host: str
    machine: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.machine == machine()

    @property
    def dead(self) -> bool:
        """Whether this was a process of this machine that is no more."""
        return self.here and self.started != started(self.pid)


class HeldError(Exception):
    """Another process holds the lock; its text names it."""


class Lock:
    """The lock at ``path``."""

    def __init__(self, path: Path, *, beat: float = BEAT, stale: float = STALE) -> None:
        self.path, self._beat, self._stale = path, beat, stale
        self._owner: Owner | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock, a stale one too.

        Raises:
            HeldError: a living process holds it.
        """
        owner = Owner(secrets.token_hex(8), socket.gethostname(), machine(), os.getpid(), "")
        owner = Owner(**{**asdict(owner), "started": started(owner.pid)})
        mine = self.path.with_name(f"{self.path.name}.{owner.token}")
        mine.write_text(json.dumps(asdict(owner)))
        try:
            while not _link(mine, self.path):
                self._clear_stale(mine)
        finally:
            mine.unlink(missing_ok=True)
        self._owner = owner
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep_alive, daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lock back; nothing happens if it was never held, or was lost."""
        if self._owner is None:
            return
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        if self.held:
            self.path.unlink(missing_ok=True)
        self._owner = None

    @property
    def held(self) -> bool:
        """Whether the lock is ours, by what is on disk now."""
        return self._owner is not None and _read(self.path) == self._owner

    def _keep_alive(self) -> None:
        while not self._stop.wait(self._beat):
            if not self.held:
                return
            with contextlib.suppress(OSError):  # a server that is away for a moment
                os.utime(self.path)

    def _clear_stale(self, probe: Path) -> None:
        """Move a stale lock aside; raise HeldError for a living one."""
        seen = _read(self.path)
        if seen is None:
            if self.path.exists() and _age(self.path, probe) < self._stale:
                raise HeldError("another process")  # a lock whose content is not there yet
        elif not seen.dead and _age(self.path, probe) < self._stale:
            raise HeldError(str(seen))
        aside = probe.with_name(f"{probe.name}.stale")
        try:
            self.path.rename(aside)
        except FileNotFoundError:  # released or taken over meanwhile: look again
            return
        if _read(aside) != seen:  # a new owner came between: what we moved is its lock
            _link(aside, self.path)
        aside.unlink(missing_ok=True)


def owner_of(path: Path, stale: float = STALE) -> Owner | None:
    """Return the living owner of the lock at ``path``; None where it is free or stale.

    The heartbeat of another machine is compared with this machine's clock, so this is for showing;
    ``Lock.acquire`` decides.
    """
    owner = _read(path)
    if owner is None or owner.dead:
        return None
    if owner.here:
        return owner
    try:
        return owner if time.time() - path.stat().st_mtime < stale else None
    except FileNotFoundError:
        return None


def _read(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _link(source: Path, target: Path) -> bool:
    """Give the file ``source`` the name ``target`` too; return whether that name was free."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    return True


def _age(path: Path, probe: Path) -> float:
    """Return the seconds since the last heartbeat, both times by the file server's clock."""
    os.utime(probe)
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


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
