"""One run, whatever comes of it: failures, and runs that another process has."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bench import lock
from bench.config import RunConfig
from bench.identity import identify
from bench.launch.execute import execute
from bench.run import RunFolder

Make = Callable[..., RunConfig]


def test_a_failure_before_the_run_begins_is_written_down(
    quick: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = quick()
    folder = RunFolder(Path(one.runs_dir) / identify(one).id)
    monkeypatch.setattr("bench.train.make_loop", lambda *_, **__: torch.empty(2**60))
    assert execute(one) == "failed"
    assert (folder.status["state"], folder.status["kind"]) == ("failed", "out of memory")
    assert folder.config["id"] == folder.path.name
    assert "Traceback" in (folder.path / "log.txt").read_text()


def test_a_busy_run_is_left_alone(quick: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = quick()
    folder = RunFolder(Path(one.runs_dir) / identify(one).id)
    folder.acquire()
    with monkeypatch.context() as awake:  # it is seen to live: nothing to wait for
        awake.setattr(time, "sleep", lambda _: pytest.fail("waits"))
        assert execute(one, patient=True) == "busy"
    assert folder.status == {}
    folder.release()
    assert execute(one) == "done"
    assert execute(one) == "done"
    assert len(folder.provenance["attempts"]) == 1


@pytest.fixture
def elsewhere(
    quick: Make, monkeypatch: pytest.MonkeyPatch
) -> Callable[[float], tuple[RunConfig, Path]]:
    """``elsewhere(age)``: a run, and its lock that another machine has, silent for so long.

    Three seconds of silence are as three minutes otherwise.
    """
    monkeypatch.setattr(lock, "STALE", 3.0)
    monkeypatch.setattr(lock, "BEAT", 0.5)

    def make(age: float) -> tuple[RunConfig, Path]:
        one = quick()
        path = Path(one.runs_dir) / identify(one).id / ".lock"
        path.parent.mkdir(parents=True)
        path.write_text("filelock/2\npid=4242\nhost=node7\nmode=lease\ntoken=t0\nduration=3.0\n")
        os.utime(path, (time.time() - age, time.time() - age))
        return one, path

    return make


@pytest.fixture
def beating() -> Iterator[Callable[[Path], None]]:
    """``beating(path)``: from now on its owner shows that it lives."""
    stop, threads = threading.Event(), list[threading.Thread]()

    def beat(path: Path) -> None:
        while not stop.wait(0.1):
            os.utime(path)

    def start(path: Path) -> None:
        threads.append(threading.Thread(target=beat, args=(path,)))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def test_the_run_of_a_lost_machine_is_taken_over_as_soon_as_that_is_clear(
    elsewhere: Callable[[float], tuple[RunConfig, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    one, path = elsewhere(0.0)
    assert execute(one) == "busy"  # impatient
    assert "process 4242 on node7 is working on this run" in capsys.readouterr().err
    assert execute(one, patient=True) == "done"
    watches = f"{path.parent.name}: watches process 4242 on node7 for a sign of life, 3 seconds"
    assert watches in capsys.readouterr().err
    assert not path.exists()


def test_the_run_of_a_machine_that_was_lost_long_ago_needs_no_patience(
    elsewhere: Callable[[float], tuple[RunConfig, Path]],
) -> None:
    one, path = elsewhere(1000.0)
    start = time.monotonic()
    assert execute(one) == "done"
    assert time.monotonic() - start >= 3.0  # its clock may be wrong: it was watched
    assert not path.exists()


def test_a_run_whose_owner_shows_a_sign_of_life_is_left_to_it(
    elsewhere: Callable[[float], tuple[RunConfig, Path]], beating: Callable[[Path], None]
) -> None:
    one, path = elsewhere(1.0)
    beating(path)
    start = time.monotonic()
    assert execute(one, patient=True) == "busy"
    assert time.monotonic() - start < 3.0
    assert RunFolder(path.parent).status == {}


def test_a_lock_that_cannot_be_read_is_left_alone_with_the_way_out(
    quick: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    one = quick()
    path = Path(one.runs_dir) / identify(one).id / ".lock"
    path.parent.mkdir(parents=True)
    path.write_text('{"token": "t0", "host": "node7", "machine": "b", "pid": 1, "started": "2"}')
    assert execute(one, patient=True) == "busy"
    told = capsys.readouterr().err
    assert told.startswith(
        f"left alone: {path}: this lock cannot be read, or is of an older version"
    )
    assert told.endswith("then delete the file\n")
    path.unlink()
    assert execute(one) == "done"
