"""The lock: one holder, dead and silent ones replaced, sleepers told."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock._filesystem._exchange as exchange
import pytest

from bench import lock as module
from bench.lock import HeldError, Lock, UnreadableError, describe, owner_of, started

DAY = 86400.0
OLD_FORMAT = '{"token": "t0", "host": "node7", "machine": "boot", "pid": 1, "started": "2"}'

HOLDER = """
import os, pathlib, sys
from bench.lock import Lock
lock = Lock(pathlib.Path(sys.argv[1]), beat=0.05, stale=float(sys.argv[2]))
lock.acquire()
print("taken", flush=True)
for line in sys.stdin:
    if line == "die\\n":
        os._exit(0)  # without releasing
    if line == "release\\n":
        lock.release()
    print(lock.held, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def refuse_exchange() -> None:
    """Let names be exchanged as little as on NFS."""
    assert exchange._rename_call() is not None  # where it can be refused
    exchange._rename_call = lambda: (lambda *_: errno.EINVAL, 2)  # type: ignore[assignment]


@pytest.fixture(params=["exchange", "no exchange"])
def _either_file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no exchange":
        monkeypatch.setattr(exchange, "_rename_call", exchange._rename_call)  # put back later
        refuse_exchange()


def forge(path: Path, age: float = 0.0, *, stale: float = 180.0, **changes: object) -> None:
    """Put a lock of another machine there, its last heartbeat ``age`` seconds ago."""
    fields = {"pid": 4242, "host": "node7", "mode": "lease", "token": "t0", "duration": stale}
    lines = [f"{name}={value}\n" for name, value in {**fields, **changes}.items()]
    path.write_text("".join(["filelock/2\n", *lines]))
    os.utime(path, (time.time() - age, time.time() - age))


@contextmanager
def beating(path: Path, skew: float = 0.0) -> Iterator[None]:
    """The holder of a lock lives; its clock is ``skew`` seconds ahead."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.05):
            os.utime(path, (time.time() + skew, time.time() + skew))

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    stop.set()
    thread.join()


@contextmanager
def holder(path: Path, stale: float = 180.0) -> Iterator[tuple[Any, Callable[[str], str]]]:
    """A process that holds the lock; ``ask(line)`` returns whether it thinks so."""
    command = [sys.executable, "-c", HOLDER, str(path), str(stale)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None

    def ask(line: str = "held") -> str:
        process.stdin.write(f"{line}\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        return process.stdout.readline().strip()  # type: ignore[union-attr]

    with process:
        try:
            assert process.stdout.readline() == "taken\n"
            yield process, ask
        finally:
            process.kill()


def seconds_to_take(lock: Lock, *, patient: bool = False) -> float:
    start = time.monotonic()
    lock.acquire(patient=patient)
    assert lock.held
    lock.release()
    assert not lock.path.exists()
    return time.monotonic() - start


def test_one_holder_at_a_time(path: Path) -> None:
    first, second = Lock(path), Lock(path)
    assert not first.held
    first.acquire()
    assert first.held
    for other in (second, first):
        with pytest.raises(HeldError, match=f"process {os.getpid()} on {socket.gethostname()}"):
            other.acquire(patient=True)
    assert first.held and not second.held
    owner = owner_of(path)
    assert owner is not None
    assert describe(owner) == f"process {os.getpid()} on {socket.gethostname()}"
    first.release()
    assert owner_of(path) is None
    second.acquire()
    assert second.held
    second.release()
    second.release()  # a second release is nothing
    assert list(path.parent.iterdir()) == []  # nothing of ours stays behind


def test_release_without_the_lock_takes_nobody_elses(path: Path) -> None:
    mine, other = Lock(path), Lock(path)
    other.acquire()
    mine.release()
    assert other.held
    other.release()


def test_a_lock_that_was_lost_can_be_taken_again(path: Path) -> None:
    lock = Lock(path)
    lock.acquire()
    path.unlink()
    assert not lock.held
    lock.acquire()
    assert lock.held
    lock.release()


@pytest.mark.usefixtures("_either_file_system")
def test_a_process_that_was_killed_is_replaced_at_once(path: Path) -> None:
    with holder(path) as (process, ask):
        with pytest.raises(HeldError, match=f"process {process.pid} on "):
            Lock(path).acquire(patient=True)
        assert ask() == "True"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert path.exists()
        assert owner_of(path) is None
        assert seconds_to_take(Lock(path)) < 1.0


@pytest.mark.usefixtures("_either_file_system")
def test_a_dead_process_that_nobody_has_reaped_is_dead(path: Path) -> None:
    with holder(path) as (process, ask):
        ask("die")
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert path.exists()
        assert owner_of(path) is None
        assert seconds_to_take(Lock(path)) < 1.0


def own_record(path: Path) -> tuple[str, int]:
    """Return the host and the start of this process as they are in its locks."""
    lock = Lock(path)
    lock.acquire()
    owner = owner_of(path)
    lock.release()
    assert owner is not None and owner.start is not None
    assert str(owner.start % 2**64) == started(os.getpid())
    return owner.hostname, owner.start


@pytest.mark.usefixtures("_either_file_system")
def test_a_pid_that_is_used_again_is_not_the_owner(path: Path) -> None:
    host, start = own_record(path)
    forge(path, host=host, pid=os.getpid(), start=start - 1)
    assert owner_of(path) is None
    assert seconds_to_take(Lock(path)) < 1.0


def test_another_machine_of_our_name_counts_by_its_heartbeat(path: Path) -> None:
    host, start = own_record(path)
    forge(path, age=100.0, host=host, pid=2**22, start=start + 2**64)  # it was booted elsewhere
    assert owner_of(path) is not None
    with pytest.raises(HeldError, match=f"process {2**22} on {socket.gethostname()}"):
        Lock(path).acquire()
    forge(path, age=200.0, host=host, pid=2**22, start=start + 2**64)  # we, before a reboot
    assert owner_of(path) is None
    assert seconds_to_take(Lock(path)) < 1.0


def test_another_machine_that_looks_alive_is_refused_at_once(path: Path) -> None:
    forge(path, age=100.0)
    owner = owner_of(path)
    assert owner is not None and describe(owner) == "process 4242 on node7"
    start = time.monotonic()
    with pytest.raises(HeldError, match="process 4242 on node7"):
        Lock(path).acquire()
    assert time.monotonic() - start < 1.0
    forge(path, age=200.0)
    assert owner_of(path) is None


@pytest.mark.usefixtures("_either_file_system")
@pytest.mark.parametrize("age", [3.0, DAY, -DAY])
def test_a_silent_machine_is_replaced_after_it_was_watched(path: Path, age: float) -> None:
    """Whatever its clock says, one that is a day ahead too."""
    forge(path, age, stale=0.6)
    told: list[str] = []
    lock = Lock(path, beat=0.1, stale=0.6)
    start = time.monotonic()
    lock.acquire(say=told.append)
    assert 0.6 <= time.monotonic() - start < 3.0
    assert lock.held
    assert told == ["watches process 4242 on node7 for a sign of life, 1 seconds at most"]
    lock.release()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("skew", [0.0, DAY, -DAY])
def test_a_machine_that_lives_is_left_alone_whatever_its_clock_says(
    path: Path, skew: float
) -> None:
    forge(path, -skew, stale=1.0)
    before = path.read_text()
    with beating(path, skew):
        for _ in range(2):
            start = time.monotonic()
            with pytest.raises(HeldError, match="process 4242 on node7"):
                Lock(path, beat=0.1, stale=1.0).acquire(patient=True)
            assert time.monotonic() - start < 1.0
        polled = Lock(path, beat=0.1, stale=1.0)
        for _ in range(12):
            with pytest.raises(HeldError, match="process 4242 on node7"):
                polled.attempt()
            time.sleep(0.1)
    assert path.read_text() == before


def test_who_is_patient_watches_a_machine_that_looks_alive(path: Path) -> None:
    forge(path, stale=0.6)
    lock = Lock(path, beat=0.1, stale=0.6)
    with pytest.raises(HeldError):
        lock.acquire()
    assert seconds_to_take(lock, patient=True) >= 0.6


def test_another_stale_time_is_another_versions_and_is_watched(path: Path) -> None:
    forge(path, stale=7.0)
    with pytest.raises(HeldError, match="node7"):
        Lock(path, beat=0.1, stale=0.6).acquire()
    assert seconds_to_take(Lock(path, beat=0.1, stale=0.6), patient=True) >= 0.6


def test_the_heartbeat_beats(path: Path) -> None:
    lock = Lock(path, beat=0.02)
    lock.acquire()
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 10
    while path.stat().st_mtime < 1e9:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock.release()
    assert not path.exists()


@pytest.mark.usefixtures("_either_file_system")
def test_a_sleeper_sees_that_its_lock_was_taken_over(path: Path) -> None:
    with holder(path, stale=0.6) as (process, ask):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.7)
        taker = Lock(path, beat=0.1, stale=0.6)
        taker.acquire()
        process.send_signal(signal.SIGCONT)
        assert ask() == "False"
        beat = path.stat().st_mtime
        assert ask("release") == "False"
        assert taker.held  # it was not the sleeper's to give back
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == beat:  # and its heartbeat is the taker's
            assert time.monotonic() < deadline
            time.sleep(0.01)
        taker.release()
        assert not path.exists()


def test_a_sleeper_does_not_beat_for_whoever_took_over(path: Path) -> None:
    sleeper = Lock(path, beat=0.02)
    sleeper.acquire()
    path.unlink()
    forge(path, age=100.0)
    time.sleep(0.2)
    assert time.time() - path.stat().st_mtime > 90.0
    sleeper.release()
    assert path.exists()


@pytest.mark.parametrize("content", ["", "{", OLD_FORMAT, "filelock/2\npid=12"])
@pytest.mark.parametrize("age", [0.0, -DAY])
def test_a_lock_that_cannot_be_read_names_the_way_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, content: str, age: float
) -> None:
    monkeypatch.setattr(module, "_LEGIBLE", 0.1)
    path.write_text(content)
    os.utime(path, (time.time() - age, time.time() - age))
    assert owner_of(path) is None
    for patient in (False, True):
        with pytest.raises(UnreadableError) as caught:
            Lock(path).acquire(patient=patient)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).endswith("no process works here, then delete the file")
    assert path.read_text() == content
    path.unlink()
    assert seconds_to_take(Lock(path)) < 1.0


def test_a_lock_that_is_just_being_written_is_waited_for(path: Path) -> None:
    path.touch()
    threading.Timer(0.2, forge, [path]).start()
    with pytest.raises(HeldError, match="process 4242 on node7"):
        Lock(path).acquire()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user too")
def test_another_users_lock_is_held_too() -> None:
    with tempfile.TemporaryDirectory() as folder:  # that of pytest is closed to others
        path = Path(folder) / ".lock"
        forge(path)
        for mode in (0o777, 0o755):
            Path(folder).chmod(mode)
            os.seteuid(65534)
            try:
                with pytest.raises(HeldError, match="process 4242 on node7"):
                    Lock(path).attempt()
            finally:
                os.seteuid(0)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionError):  # nobody's, but not ours to make
                Lock(Path(folder) / "new").attempt()
        finally:
            os.seteuid(0)


def test_a_lock_taken_meanwhile_is_put_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our look at a dead process's lock and its removal, another has replaced it."""
    monkeypatch.setattr(exchange, "_rename_call", exchange._rename_call)
    refuse_exchange()
    with holder(path) as (process, _):
        process.kill()
        process.wait()
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        if self == path:
            forge(path, token="fresh")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(HeldError, match="node7"):
        Lock(path).acquire()
    owner = owner_of(path)
    assert owner is not None and owner.token == "fresh"
    assert [file.name for file in path.parent.iterdir()] == [".lock"]


def _contend(path: Path, rounds: int, barrier: Any, spans: Any, refused: bool) -> None:
    if refused:
        refuse_exchange()
    for one in range(rounds):
        if barrier.wait() == 0:
            forge(path, DAY, stale=0.03)  # of a machine that was lost
        barrier.wait()
        lock = Lock(path, beat=0.01, stale=0.03)
        try:
            lock.acquire()
        except HeldError:
            continue
        start = time.monotonic()
        time.sleep(0.005)
        spans.put((one, start, time.monotonic()))
        lock.release()


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("contenders", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_of_many_that_find_a_stale_lock_one_holds_it(
    path: Path, contenders: int, refused: bool
) -> None:
    context = multiprocessing.get_context("spawn")
    spans, barrier = context.Queue(), context.Barrier(contenders)
    args = (path, 50, barrier, spans, refused)
    crowd = [context.Process(target=_contend, args=args) for _ in range(contenders)]
    for process in crowd:
        process.start()
    found: list[tuple[int, float, float]] = []
    while any(process.is_alive() for process in crowd) or not spans.empty():
        while not spans.empty():
            found.append(spans.get(timeout=5))
        time.sleep(0.05)
    assert [process.exitcode for process in crowd] == [0] * contenders
    found.sort(key=lambda span: span[1])
    assert {one for one, _, _ in found} == set(range(50))  # in each round somebody had it
    assert all(end <= start for (_, _, end), (_, start, _) in itertools.pairwise(found))
