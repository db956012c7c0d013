"""Alike programs are compiled one after another; nothing else waits, and nobody waits for ever."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import config, parts, preemption
from bench.preemption import StopRequested
from bench.setup import Setup
from bench.training import accounting, compile_lock
from bench.training.compile_lock import CompileLock
from bench.training.parallel import ALONE

HOLDER = """
import sys, time
from pathlib import Path
from bench.training.compile_lock import CompileLock
held = CompileLock("a", Path(sys.argv[1]))
held.take()
print("taken", flush=True)
time.sleep(600)
"""


TAKER = """
import sys
from pathlib import Path
from bench.training.compile_lock import CompileLock
one = CompileLock("a", Path(sys.argv[1]))
one.take()
one.over(compiled=True)
"""


class Waiting:
    """A thread that takes the lock."""

    def __init__(self, one: CompileLock) -> None:
        self.compile_lock, self.took = one, threading.Event()
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        self.compile_lock.take()
        self.took.set()


@pytest.fixture(autouse=True)
def _a_process_that_compiled_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compile_lock, "_here", set())
    yield
    preemption.clear()


def test_the_second_waits_for_the_first_and_lets_the_others_go(tmp_path: Path) -> None:
    first = CompileLock("a", tmp_path)
    first.take()
    told: list[str] = []
    others = [Waiting(CompileLock("a", tmp_path, told.append)) for _ in range(3)]
    assert not any(one.took.wait(0.5) for one in others)
    assert told == ["waits for a process that compiles the same code"] * 3  # each says so once
    first.over(compiled=False)
    first.over(compiled=False)  # said twice
    assert all(one.took.wait(10) for one in others)  # though none of them says it is over


def test_other_programs_do_not_wait(tmp_path: Path) -> None:
    held = CompileLock("a", tmp_path / "x")
    held.take()
    assert Waiting(CompileLock("b", tmp_path / "x")).took.wait(10)
    assert Waiting(CompileLock("a", tmp_path / "y")).took.wait(10)  # another cache
    assert Waiting(CompileLock("a", None)).took.wait(10)


def test_it_is_over_also_where_what_was_to_be_compiled_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), CompileLock("a", tmp_path) as held:
        assert not Waiting(CompileLock("a", tmp_path)).took.wait(0.5)
        held.take()  # it has it
        _ = 1 / 0
    compile_lock._here.clear()
    assert not markers(tmp_path)
    assert Waiting(CompileLock("a", tmp_path)).took.wait(10)


def markers(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.done")}


def test_once_it_was_compiled_nobody_waits_for_who_only_loads_it(tmp_path: Path) -> None:
    held = CompileLock("a", tmp_path)
    held.take()
    told: list[str] = []
    early = Waiting(CompileLock("a", tmp_path, told.append))
    assert not early.took.wait(0.5)
    compiling = CompileLock("a", tmp_path)
    compiling.over(compiled=False)  # failed, and so leaves none
    compile_lock._here.clear()
    assert not Waiting(CompileLock("a", tmp_path)).took.wait(0.5)
    compiling.over(compiled=True)  # it never had the lock: without it too the code is there
    compile_lock._here.clear()
    subprocess.run([sys.executable, "-c", TAKER, str(tmp_path)], check=True, timeout=60)
    late = CompileLock("a", tmp_path, told.append)
    late.take()
    assert late._lock is None
    assert not early.took.is_set() and held._lock is not None and held._lock.held
    assert len(told) == 1
    held.over(compiled=True)
    assert early.took.wait(10)


def test_a_context_leaves_a_marker_where_all_went_well(tmp_path: Path) -> None:
    with CompileLock("a", tmp_path):
        assert not markers(tmp_path)
    assert len(markers(tmp_path)) == 1
    CompileLock("b", tmp_path).over(compiled=True)
    assert len(markers(tmp_path)) == 2
    CompileLock("a", None).over(compiled=True)
    assert {path.suffix for path in tmp_path.iterdir()} == {".done"}


def test_another_torch_compiles_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with CompileLock("a", tmp_path):
        pass
    monkeypatch.setattr("torch.__version__", "9.0.0")
    with CompileLock("a", tmp_path) as held:
        assert held._lock is not None
    assert len(markers(tmp_path)) == 2


def test_a_process_waits_once_for_each_program(tmp_path: Path) -> None:
    first = CompileLock("a", tmp_path)
    first.take()
    first.over(compiled=False)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "taken\n"
        assert Waiting(CompileLock("a", tmp_path)).took.wait(10)  # what it needs it has
    finally:
        other.kill()
        other.wait()


def test_a_process_that_was_killed_holds_nobody_up(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "taken\n"
        waiting = Waiting(CompileLock("a", tmp_path))
        assert not waiting.took.wait(0.5)
        holder.kill()
        assert waiting.took.wait(10)
    finally:
        holder.kill()
        holder.wait()


def test_who_is_asked_to_stop_does_not_wait(tmp_path: Path) -> None:
    with CompileLock("a", tmp_path):
        preemption.request("SIGTERM")
        with pytest.raises(StopRequested, match="SIGTERM while another process compiled"):
            CompileLock("a", tmp_path).take()


def test_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_lock, "_MOST_SECONDS", 0.5)
    held = CompileLock("a", tmp_path)
    held.take()
    start = time.monotonic()
    late = CompileLock("a", tmp_path)
    late.take()
    assert time.monotonic() - start >= 0.5
    late.over(compiled=False)  # what it never had
    compile_lock._here.clear()
    monkeypatch.setattr(compile_lock, "_MOST_SECONDS", 900.0)
    assert not Waiting(CompileLock("a", tmp_path)).took.wait(0.5)


def test_without_locks_nobody_waits(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with CompileLock("a", tmp_path / "file") as held:  # no folder
        assert held._lock is None


def test_where_there_are_no_links_there_are_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr("os.link", refuse)
    with CompileLock("a", tmp_path) as held:
        assert held._lock is not None
        assert not Waiting(CompileLock("a", tmp_path)).took.wait(0.5)


def test_nobody_waits_for_a_lock_that_cannot_be_read(tmp_path: Path) -> None:
    one = CompileLock("a", tmp_path)
    (tmp_path / f"{one._name}.lock").touch()  # its maker was killed before it wrote its name
    assert Waiting(one).took.wait(10)
    assert one._lock is None


@pytest.mark.parametrize("at", [1, 2])
def test_a_loop_takes_the_compile_lock_for_its_first_steps(build: Any, at: int) -> None:
    told: list[str] = []

    class ServerRun(CompileLock):
        def take(self) -> None:
            told.append("take")

        def over(self, *, compiled: bool) -> None:
            told.append("compiled" if compiled else "failed")

    loop = build("run", stop=build.Stop(at, lambda: told.append("step")))
    loop.compile_lock = ServerRun("a", None)
    loop.training_step.cold = True  # the first step makes it warm
    loop.run()
    assert told == ["take", "compiled", "step"]
    del told[:]
    failing = build("another")
    failing.compile_lock, failing.training_step.cold = ServerRun("a", None), True
    failing.training_step.launch = None  # cannot be called
    with pytest.raises(TypeError):
        failing.run()
    assert told == ["take", "failed"]


def test_a_loop_that_is_asked_to_stop_while_it_waits_leaves_its_checkpoint_as_it_is(
    build: Any, tmp_path: Path
) -> None:
    whole = build("whole")
    whole.run()
    with CompileLock("a", tmp_path):
        loop = build("run")
        loop.compile_lock, loop.training_step.cold = CompileLock("a", tmp_path), True
        preemption.request("SIGUSR2")
        with pytest.raises(StopRequested):
            loop.run()
    preemption.clear()
    assert loop.step == 0
    again = build("run")
    again.run()
    assert again.folder.history() == whole.folder.history()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of compiled code."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def compiled(*words: str) -> Setup:
    return Setup.of(config.load(["model=mlp", "model.hidden=[8]", "trainer.device=cpu", *words]))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("compile", "size"), [("false", 1), ("true", 2)])
def test_runs_have_no_lock_where_nothing_is_compiled_or_ranks_need_them(
    compile: str, size: int
) -> None:
    setup = compiled(f"trainer.compile={compile}").joined(replace(ALONE, size=size))
    assert CompileLock.of("step", setup)._folder is None


def test_a_lock_is_of_the_code_and_the_device(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = (compiled("trainer.compile=true", f"seed={seed}") for seed in (0, 3))
    locks = [CompileLock.of("step", setup) for setup in (run, other)]
    assert [lock._folder for lock in locks] == [cache / "locks"] * 2
    assert locks[0]._name == locks[1]._name
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"GPU {device.index}")
    gpus = [replace(run, device=torch.device("cuda", n)) for n in (0, 1)]
    others = [CompileLock.of("cost", run), *(CompileLock.of("step", gpu) for gpu in gpus)]
    assert len({locks[0]._name, *(lock._name for lock in others)}) == 4


def test_a_cost_that_cannot_be_measured_leaves_no_marker(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = compiled("trainer.compile=true")
    data = parts.build_data(setup.config)
    model = parts.seeded_model(setup.config, data.shape)
    monkeypatch.setattr(accounting, "_costs", {})

    def cost() -> Any:
        return accounting.cost_of_run(setup, model, data)

    def refuse(*_: object) -> None:
        raise TypeError("no copies")

    with monkeypatch.context() as patched, pytest.warns(UserWarning, match="no copies"):
        patched.setattr(accounting, "measure_cost", refuse)
        assert cost() is None
    assert not markers(cache / "locks")
    assert cost() is not None
    assert len(markers(cache / "locks")) == 1
