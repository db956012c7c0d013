"""One run, whatever comes of it: failures, and runs that another process has."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from bench.config import RunConfig
from bench.identity import identify
from bench.launch.execute import execute
from bench.lock import STALE, Owner
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
def elsewhere(quick: Make) -> Callable[[float], tuple[RunConfig, Path]]:
    """``elsewhere(age)``: a run, and its lock that another machine has, silent for so long."""

    def make(age: float) -> tuple[RunConfig, Path]:
        one = quick()
        lock = Path(one.runs_dir) / identify(one).id / ".lock"
        lock.parent.mkdir(parents=True)
        lock.write_text(json.dumps(asdict(Owner("t0ken", "node7", "another boot", 4242, "17"))))
        os.utime(lock, (time.time() - age, time.time() - age))
        return one, lock

    return make


@pytest.fixture
def beating() -> Iterator[Callable[[Path], None]]:
    """``beating(lock)``: from now on its owner shows that it lives."""
    stop, threads = threading.Event(), list[threading.Thread]()

    def beat(lock: Path) -> None:
        while not stop.wait(0.1):
            os.utime(lock)

    def start(lock: Path) -> None:
        threads.append(threading.Thread(target=beat, args=(lock,)))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def test_the_run_of_a_lost_machine_is_taken_over_as_soon_as_that_is_clear(
    elsewhere: Callable[[float], tuple[RunConfig, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    one, lock = elsewhere(STALE - 2.5)
    assert execute(one) == "busy"  # impatient
    assert "process 4242 on node7 is working on this run" in capsys.readouterr().err
    assert execute(one, patient=True) == "done"
    assert not lock.exists()


def test_a_run_whose_owner_shows_a_sign_of_life_is_left_to_it(
    elsewhere: Callable[[float], tuple[RunConfig, Path]], beating: Callable[[Path], None]
) -> None:
    one, lock = elsewhere(60.0)
    beating(lock)
    start = time.monotonic()
    assert execute(one, patient=True) == "busy"
    assert time.monotonic() - start < 30.0  # seconds, and not until a silent one would be stale
    assert RunFolder(lock.parent).status == {}
