"""Alike programs are compiled one after another; nothing else waits, and nobody waits for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import preemption
from bench.training import turn
from bench.training.turn import Turn

HOLDER = """
import sys, time
from pathlib import Path
from bench.training.turn import Turn
held = Turn("a", Path(sys.argv[1]))
held.take()
print("taken", flush=True)
time.sleep(600)
"""


class Waiting:
    """A thread that takes a turn."""

    def __init__(self, one: Turn) -> None:
        self.turn, self.took = one, threading.Event()
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        self.turn.take()
        self.took.set()


@pytest.fixture(autouse=True)
def _nothing_asked() -> Iterator[None]:
    yield
    preemption.clear()


def test_the_second_waits_for_the_first_and_lets_the_others_go(tmp_path: Path) -> None:
    first = Turn("a", tmp_path)
    first.take()
    others = [Waiting(Turn("a", tmp_path)) for _ in range(3)]
    assert not any(one.took.wait(0.3) for one in others)
    first.over()
    first.over()  # said twice
    assert all(one.took.wait(10) for one in others)  # though none of them says it is over
    Turn("a", tmp_path).take()


def test_other_programs_do_not_wait(tmp_path: Path) -> None:
    held = Turn("a", tmp_path)  # as long as it is there
    held.take()
    assert Waiting(Turn("b", tmp_path)).took.wait(10)
    assert Waiting(Turn(None, tmp_path)).took.wait(10)


def test_a_process_that_was_killed_holds_nobody_up(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "taken\n"
        waiting = Waiting(Turn("a", tmp_path))
        assert not waiting.took.wait(0.5)
        holder.kill()
        assert waiting.took.wait(10)
    finally:
        holder.kill()
        holder.wait()


def test_who_is_asked_to_stop_does_not_wait(tmp_path: Path) -> None:
    held = Turn("a", tmp_path)
    held.take()
    waiting = Waiting(Turn("a", tmp_path))
    preemption.request("SIGTERM")
    assert waiting.took.wait(10)


def test_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "_MOST_SECONDS", 0.5)
    held = Turn("a", tmp_path)
    held.take()
    start = time.monotonic()
    late = Turn("a", tmp_path)
    late.take()
    assert time.monotonic() - start >= 0.5
    late.over()  # what it never had
    assert not Waiting(Turn("a", tmp_path)).took.wait(0.2)


@pytest.mark.parametrize(("at", "over"), [(1, False), (2, True)])
def test_a_loops_turn_is_over_once_it_has_made_its_first_steps(
    build: Any, tmp_path: Path, at: int, over: bool
) -> None:
    taken = Turn("a", tmp_path)
    taken.take()
    seen: list[bool] = []

    def look() -> None:
        seen.append(Waiting(Turn("a", tmp_path)).took.wait(10 if over else 0.3))

    loop = build("run", stop=build.Stop(at, look))
    loop.turn, loop.training_step.cold = taken, True  # the first step makes it warm
    loop.run()
    assert seen == [over]
    assert Waiting(Turn("a", tmp_path)).took.wait(10)


def test_a_run_that_fails_in_its_first_step_ends_its_turn(build: Any, tmp_path: Path) -> None:
    loop = build("run", stop=build.Stop(1))  # interrupts it
    loop.turn = Turn("a", tmp_path)
    loop.turn.take()
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert Waiting(Turn("a", tmp_path)).took.wait(10)
