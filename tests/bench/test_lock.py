"""The lock: one holder, dead and silent ones replaced, sleepers told."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.lock import HeldError, Lock, Owner, owner_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def forge(path: Path, age: float = 0.0, **changes: object) -> Owner:
    """Put a lock of another machine there, its last heartbeat ``age`` seconds ago."""
    owner = Owner("t0ken", "node7", "another boot", 4242, "17")
    owner = replace(owner, **changes)  # type: ignore[arg-type]
    path.write_text(json.dumps(asdict(owner)))
    os.utime(path, (time.time() - age, time.time() - age))
    return owner


def here(path: Path) -> Owner:
    lock = Lock(path)
    lock.acquire()
    owner = owner_of(path)
    lock.release()
    assert owner is not None
    return owner


def test_one_holder_at_a_time(path: Path) -> None:
    first, second = Lock(path), Lock(path)
    assert not first.held
    first.acquire()
    assert first.held
    with pytest.raises(HeldError, match=f"process {os.getpid()} on "):
        second.acquire()
    assert not second.held
    assert owner_of(path) is not None
    first.release()
    assert owner_of(path) is None
    second.acquire()
    assert second.held
    second.release()
    assert list(path.parent.iterdir()) == []  # nothing of ours stays behind


def test_release_without_the_lock_takes_nobody_elses(path: Path) -> None:
    mine, other = Lock(path), Lock(path)
    other.acquire()
    mine.release()
    assert other.held
    other.release()


def test_a_dead_process_of_this_machine_is_replaced_at_once(path: Path) -> None:
    code = "import sys, pathlib, bench.lock; bench.lock.Lock(pathlib.Path(sys.argv[1])).acquire()"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)  # ends without releasing
    assert path.exists()
    assert owner_of(path) is None
    lock = Lock(path)
    lock.acquire()
    assert lock.held
    lock.release()


def test_a_dead_process_that_nobody_has_reaped_is_dead(path: Path) -> None:
    code = "import sys, pathlib, bench.lock; bench.lock.Lock(pathlib.Path(sys.argv[1])).acquire()"
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert path.exists()
        assert owner_of(path) is None


def test_a_pid_that_is_used_again_is_not_the_owner(path: Path) -> None:
    forge(path, machine=here(path).machine, pid=os.getpid(), started="1")
    assert owner_of(path) is None
    lock = Lock(path)
    lock.acquire()
    lock.release()


def test_another_machine_counts_by_its_heartbeat(path: Path) -> None:
    owner = forge(path, age=100.0)
    assert owner_of(path) == owner
    with pytest.raises(HeldError, match="process 4242 on node7"):
        Lock(path).acquire()
    forge(path, age=200.0)
    assert owner_of(path) is None
    lock = Lock(path)
    lock.acquire()
    assert lock.held
    lock.release()


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


def test_a_sleeper_sees_that_its_lock_was_taken_over(path: Path) -> None:
    sleeper = Lock(path, beat=1000)
    sleeper.acquire()
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "machine": "another boot"}))
    os.utime(path, (0, 0))
    taker = Lock(path)
    taker.acquire()
    assert not sleeper.held
    assert taker.held
    sleeper.release()
    assert taker.held  # it is not the sleeper's to give back
    taker.release()


def test_a_sleeper_does_not_beat_for_whoever_took_over(path: Path) -> None:
    sleeper = Lock(path, beat=0.02)
    sleeper.acquire()
    forge(path, age=100.0)
    time.sleep(0.2)
    assert time.time() - path.stat().st_mtime > 90.0
    sleeper.release()


def test_a_torn_lock_file_is_no_owner_but_keeps_others_away_while_it_is_young(path: Path) -> None:
    path.write_text("{")
    assert owner_of(path) is None
    with pytest.raises(HeldError, match="another process"):
        Lock(path).acquire()
    os.utime(path, (0, 0))
    lock = Lock(path)
    lock.acquire()
    lock.release()


def test_a_lock_taken_meanwhile_is_put_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our look at a stale lock and its removal, another process has replaced it."""
    forge(path, age=1000.0)
    fresh: list[Owner] = []
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        if not fresh:
            fresh.append(forge(path, token="fresh"))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(HeldError, match="node7"):
        Lock(path).acquire()
    assert owner_of(path) == fresh[0]
    assert [file.name for file in path.parent.iterdir()] == [".lock"]


def _contend(path: Path, spans: multiprocessing.Queue[tuple[float, float]], go: float) -> None:
    time.sleep(max(0.0, go - time.time()))
    lock = Lock(path)
    for _ in range(30):
        try:
            lock.acquire()
        except HeldError:
            time.sleep(0.01)
            continue
        start = time.monotonic()
        time.sleep(0.02)
        spans.put((start, time.monotonic()))
        lock.release()


def test_of_many_at_once_one_holds_it(path: Path) -> None:
    forge(path, age=1000.0)
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[tuple[float, float]] = context.Queue()
    go = time.time() + 3.0
    crowd = [context.Process(target=_contend, args=(path, queue, go)) for _ in range(4)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join()
        assert process.exitcode == 0
    spans = []
    while not queue.empty():
        spans.append(queue.get(timeout=5))
    spans.sort()
    assert len(spans) >= 10
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
