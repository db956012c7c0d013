"""Workers side by side: every run once, a dead worker takes one run along, a stop loses nothing.

Which run is next: every run once, runs alike by the same worker, nobody idle.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config import RunConfig
from bench.identity import identify
from bench.launch import manifest
from bench.launch.grid import Job
from bench.launch.manifest import Launch
from bench.launch.pool import PACKED, Order, Pool, slots, visible_devices
from bench.run_folder import RunFolder
from bench.train import train

Make = Callable[..., RunConfig]

# From its first step on, its process prints, between the runs too.
MODULE = """
import os, signal, threading, time, torch
def chatter():
    while True:
        print("chatter", flush=True)
        time.sleep(0.01)
thread = threading.Thread(target=chatter, daemon=True)
class Odd(torch.optim.SGD):
    def step(self, closure=None):
        if not thread.is_alive():
            thread.start()
        lr = self.param_groups[0]["initial_lr"]
        if lr == 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        if lr == 0.25:
            raise ArithmeticError("odd")
        if lr == 0.125:
            time.sleep(0.2)
        return super().step(closure)
"""


@pytest.fixture
def launched(tmp_path: Path, quick: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Launch]:
    """``launched(*overrides, ...)``: a launch of one run for each tuple of overrides."""
    (tmp_path / "odd_module.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}:{tmp_path}")
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(*grid: tuple[str, ...], **options: Any) -> Launch:
        odd = ("optimizer=sgd", "optimizer._target_=odd_module.Odd")
        jobs = []
        for words in grid:
            run = quick(*odd, *words)
            jobs.append(Job(words, run, identify(run)))
        ids = [job.identity.id for job in jobs]
        return manifest.create(tmp_path / "runs", jobs, [ids], options)

    return make


def run(launch: Launch, workers: int) -> tuple[Pool, list[str]]:
    said: list[str] = []
    pool = Pool(launch, launch.tasks[0], slots([], workers), said.append)
    pool.run()
    return pool, said


@pytest.mark.slow
def test_failures_stay_their_own(launched: Callable[..., Launch]) -> None:
    launch = launched(
        ("optimizer.lr=0.5",), ("optimizer.lr=0.25",), *((f"seed={n}",) for n in range(4))
    )
    dead, odd, *good = launch.tasks[0]
    pool, said = run(launch, 2)
    assert pool.outcomes == {dead: "failed", odd: "failed", **dict.fromkeys(good, "done")}
    status = launch.folder(dead).status
    assert (status["state"], status["kind"]) == ("failed", "killed")
    assert status["cause"] == "its process ended by SIGKILL"
    status = launch.folder(odd).status
    assert (status["kind"], status["cause"]) == ("exception", "ArithmeticError: odd")
    assert "Traceback" in (launch.folder(odd).path / "log.txt").read_text()
    assert f"{dead}: failed, killed: its process ended by SIGKILL" in said
    assert not pool.unfinished
    for name in good:
        assert launch.folder(name).provenance["attempts"][0]["packed"] == 2
        assert f"{name}: done" in (launch.folder(name).path / "log.txt").read_text()
        accuracy = 100 * launch.folder(name).summary["test/accuracy"]
        (line,) = (line for line in said if line.startswith(name))
        assert line.startswith(f"{name}: done, test accuracy {accuracy:.2f} %, ")
    assert len({launch.folder(name).status["pid"] for name in good}) < len(good)  # workers stay


@pytest.mark.slow
def test_a_stop_leaves_resumable_runs_and_begins_no_more(launched: Callable[..., Launch]) -> None:
    slow = ("optimizer.lr=0.125", "trainer.epochs=50", "trainer.checkpoint_seconds=0")
    launch = launched((*slow, "seed=0"), (*slow, "seed=1"), (*slow, "seed=2"))
    said: list[str] = []
    pool = Pool(launch, launch.tasks[0], slots([], 2), said.append)
    thread = threading.Thread(target=pool.run)
    thread.start()
    folders = [launch.folder(name) for name in launch.tasks[0]]
    deadline = time.monotonic() + 240
    while not all((folder.path / "checkpoint.pt").exists() for folder in folders[:2]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    pool.stop()
    thread.join(120)
    assert not thread.is_alive()
    assert pool.unfinished
    assert list(pool.outcomes.values()) == ["stopped", "stopped"]
    assert [folder.status.get("state") for folder in folders] == ["running", "running", None]
    assert [folder.owner for folder in folders] == [None] * 3
    for folder in folders[:2]:
        checkpoint = folder.load_checkpoint()
        assert checkpoint is not None
        assert (
            f"SIGTERM at step {checkpoint['step']} of 150" in (folder.path / "log.txt").read_text()
        )


@pytest.mark.slow
def test_signals_at_the_start_of_a_worker_are_kept_for_later(
    launched: Callable[..., Launch],
) -> None:
    """SLURM sends them to all processes of a job, those that are still importing too."""
    launch = launched(("optimizer.lr=0.125", "trainer.epochs=50"))
    pool = Pool(launch, launch.tasks[0], slots([], 1), lambda text: None)
    thread = threading.Thread(target=pool.run)
    thread.start()
    while not pool._workers:
        time.sleep(0.01)
    for number in (signal.SIGUSR2, signal.SIGINT, signal.SIGTERM):
        pool._workers[0].send_signal(number)
    thread.join(240)
    assert list(pool.outcomes.values()) == ["stopped"]
    assert launch.folder(launch.tasks[0][0]).status["state"] == "running"


@pytest.mark.slow
def test_giving_up_after_failures(launched: Callable[..., Launch]) -> None:
    launch = launched(*(("optimizer.lr=0.25", f"seed={n}") for n in range(4)), fail_fast_after=2)
    pool, _ = run(launch, 1)
    assert list(pool.outcomes.values()) == ["failed", "failed"]
    assert launch.given_up


def test_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    assert slots(["0", "1"], 2) == [
        {"CUDA_VISIBLE_DEVICES": gpu, PACKED: "2", "OMP_NUM_THREADS": "2"} for gpu in "0011"
    ]
    assert slots([], 4) == [{PACKED: "4", "OMP_NUM_THREADS": "2"}] * 4


@pytest.mark.parametrize(
    ("devices", "pack", "each", "threads"),
    [
        ("", 1, 1, None),  # alone, it has all
        ("0", 1, 1, None),
        ("01", 1, 2, "4"),  # a process on each
        ("", 3, 1, "2"),
        ("0", 3, 1, "2"),
        ("01", 1, 1, "4"),
        ("0123", 1, 2, "2"),
        ("0123", 6, 1, "1"),  # fewer cores than workers
    ],
)
def test_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, devices: str, pack: int, each: int, threads: str | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = slots(list(devices), pack, each)
    assert {slot.get("OMP_NUM_THREADS") for slot in made} == {threads}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    made = slots(list(devices), pack, each)
    assert {slot.get("OMP_NUM_THREADS", "3") for slot in made} == {"3"}


@pytest.mark.parametrize(
    ("devices", "each", "expected"),
    [("0123", 2, ["0,1", "2,3"]), ("012", 2, ["0,1"]), ("0", 2, ["0"]), ("01", 1, ["0", "1"])],
)
def test_a_worker_has_all_the_devices_of_its_runs(
    devices: str, each: int, expected: list[str]
) -> None:
    made = slots(list(devices), 1, each)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in made] == expected


def test_a_death_is_the_runs_failure_only_where_it_was_at_work(launch: Launch) -> None:
    pool = Pool(launch, [], [], lambda text: None)
    first, second, third, _ = launch.jobs()
    done, other, alone = (launch.folder(job.identity.id) for job in (first, second, third))
    for folder in (done, other):
        folder.path.mkdir(parents=True)
    done.set_status("done")
    other.acquire()
    assert pool._after_death(done.path.name, -9, by_memory=False) == "done"
    assert pool._after_death(other.path.name, -9, by_memory=False) == "busy"
    assert other.status == {}
    other.release()
    causes = [(-9, False, "killed"), (-9, True, "out of memory"), (3, True, "exception")]
    for status, by_memory, kind in causes:
        assert pool._after_death(alone.path.name, status, by_memory=by_memory) == "failed"
        assert (alone.status["state"], alone.status["kind"]) == ("failed", kind)
    assert alone.status["cause"] == "its process ended by exit status 3"


@pytest.mark.parametrize(
    ("given", "found"), [("", []), ("0,1", ["0", "1"]), ("NoDevFiles", []), ("GPU-ab", ["GPU-ab"])]
)
def test_visible_devices(monkeypatch: pytest.MonkeyPatch, given: str, found: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_devices() == found


def test_once_packed_always_packed(quick: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one, before = quick(), signal.getsignal(signal.SIGINT)
    folder = RunFolder(Path(one.runs_dir) / identify(one).id)
    folder.path.mkdir(parents=True)
    folder.begin({}, {"packed": 4})
    train(one)
    assert [attempt["packed"] for attempt in folder.provenance["attempts"]] == [4, 4]
    assert json.loads((folder.path / "provenance.json").read_text())
    assert signal.getsignal(signal.SIGINT) is before


GRID = [("a0", "A"), ("a1", "A"), ("a2", "A"), ("b0", "B"), ("b1", "B"), ("c0", "C")]


def taken(order: Order, workers: list[int]) -> list[str | None]:
    return [order.take(worker) for worker in workers]


def test_one_worker_follows_the_grid() -> None:
    order = Order(GRID)
    assert len(order) == 6
    assert taken(order, [0] * 7) == ["a0", "a1", "a2", "b0", "b1", "c0", None]
    assert len(order) == 0


def test_each_worker_keeps_to_its_code_then_to_a_new_one_then_helps() -> None:
    order = Order(GRID)
    assert taken(order, [0, 1]) == ["a0", "b0"]
    assert taken(order, [1, 1]) == ["b1", "c0"]  # not a1, which the first worker can do
    assert taken(order, [1, 0, 0]) == ["a1", "a2", None]  # but rather that than nothing


def test_runs_of_a_seed_first_grid_are_sorted_by_code() -> None:
    order = Order((f"{code}{seed}", code) for seed in range(3) for code in "AB")
    assert taken(order, [0, 1, 0, 1, 1, 0]) == ["A0", "B0", "A1", "B1", "B2", "A2"]


def test_no_run_waits_for_a_worker_that_has_left() -> None:
    order = Order(GRID)
    order.take(0)
    assert taken(order, [1] * 5) == ["b0", "b1", "c0", "a1", "a2"]


@given(codes=st.lists(st.integers(0, 4), max_size=30), data=st.data())
def test_whoever_asks_whenever(codes: list[int], data: st.DataObject) -> None:
    runs = {f"{number}": code for number, code in enumerate(codes)}
    order, done, last = Order(runs.items()), list[str](), dict[int, int]()
    asking = st.integers(0, 3)
    while (run := order.take(worker := data.draw(asking))) is not None:
        waiting = [code for name, code in runs.items() if name not in done]
        assert run not in done
        if last.get(worker) in waiting:
            assert runs[run] == last[worker]
        elif set(waiting) - {runs[name] for name in done}:
            assert runs[run] not in {runs[name] for name in done}
        else:
            assert runs[run] == waiting[0]
        done.append(run)
        last[worker] = runs[run]
    assert sorted(done) == sorted(runs)  # none is left where one is refused
    for code in set(codes):
        alike = [int(name) for name in done if runs[name] == code]
        assert alike == sorted(alike)


def test_workers_that_ask_at_the_same_time_share_nothing() -> None:
    order = Order((str(number), number % 7) for number in range(500))
    found: list[list[str]] = [[] for _ in range(8)]

    def work(worker: int) -> None:
        while (run := order.take(worker)) is not None:
            found[worker].append(run)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [name for part in found for name in part]
    assert len(names) == len(set(names)) == 500
