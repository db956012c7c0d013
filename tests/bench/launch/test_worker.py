"""Runs of one process: none of them shows in the results of those after it, bit for bit on CPU.

One run, whatever comes of it: failures, and runs that another process has.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cpu_time
import pytest
import torch

from bench import config, lock
from bench.config import RunConfig
from bench.identity import identify
from bench.launch import manifest
from bench.launch.grid import Job
from bench.launch.manifest import Launch
from bench.launch.pool import Pool, slots
from bench.launch.worker import execute
from bench.run_folder import RunFolder

IMAGES = ("model=convnet", "model.width=4", "dataset.pad=1")
TOKENS = (
    *("model=gpt_mini", "model.dim=16", "model.layers=2", "model.heads=2"),
    *("model.dropout=0.1", "dataset=synthetic_lm", "dataset.count=200", "dataset.held_out=40"),
    *("dataset.context_length=16", "dataset.vocab_size=64", "trainer.batch_size=50"),
)
MLP = ("model=mlp", "model.hidden=[8]")
COMPILED = (*MLP, "optimizer=spectral_newton", "trainer.compile=true")
BASE = (
    *("tracker=none", "trainer.epochs=1", "trainer.batch_size=400", "trainer.log_every=1"),
    *("trainer.progress=none", "trainer.device=cpu", "trainer.threads=1"),
)


def words_of(exponents: Path) -> dict[str, tuple[str, ...]]:
    """Runs whose results are compared, each with something that could leak into another."""
    return {
        "statistics of batch norm": (*IMAGES, "optimizer=muon", "seed=3", "trainer.epochs=2"),
        "dropout": (*TOKENS, "optimizer=spectral_newton", "seed=3", "trainer.precision=bf16"),
        "exponents": (
            *("model=convnet", "optimizer=scalar_spectral_adam", "seed=3"),
            *("optimizer.mode=random", f"exponents={exponents}", "dataset.flip=true"),
        ),
        "compiled code": (*COMPILED, "seed=4", "optimizer.lr=0.03"),
        "threads": (
            "model=mlp",
            "model.hidden=[16]",
            "optimizer=adamw",
            "seed=3",
            "trainer.threads=2",
        ),
    }


def others_of() -> list[tuple[str, ...]]:
    """Runs before those: of other seeds, rates, shapes, threads, and one that fails."""
    return [
        (*IMAGES, "optimizer=sgd", "seed=1", "trainer.label_smoothing=0.1"),
        (*TOKENS, "optimizer=adamw", "seed=3"),  # the same data as a run that is compared
        (*COMPILED, "seed=1"),  # the same code
        (*MLP, "optimizer=sgd", "optimizer.lr=1e30", "seed=3"),  # diverges
        (*IMAGES, "optimizer=kfac", "seed=3", "trainer.threads=2"),
    ]


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Launch]:
    """``launch(name, *grid)`` writes down a launch into a runs folder of its own."""

    def make(name: str, *grid: tuple[str, ...]) -> Launch:
        here = (f"runs_dir={tmp_path / name}", f"data_dir={tmp_path / 'data'}")
        runs = [config.load([*BASE, *words, *here]) for words in grid]
        jobs = [Job(words, run, identify(run)) for words, run in zip(grid, runs, strict=True)]
        ids = [job.identity.id for job in jobs]
        return manifest.create(tmp_path / name, jobs, [ids], {})

    return make


def carry_out(launch: Launch) -> dict[str, str]:
    pool = Pool(launch, launch.tasks[0], slots([], 1), lambda text: None)
    pool.run()
    return pool.outcomes


@pytest.mark.slow
def test_a_result_does_not_depend_on_the_runs_before_it(
    launch: Callable[..., Launch],
    exponents: Callable[..., Path],
    assert_same: Callable[..., None],
) -> None:
    compared = words_of(exponents())
    mixed = [run for pair in zip(others_of(), compared.values(), strict=True) for run in pair]
    busy = launch("busy", *mixed)
    assert set(carry_out(busy).values()) == {"done"}
    assert len({busy.folder(name).status["pid"] for name in busy.tasks[0]}) == 1
    names = dict(zip(compared, busy.tasks[0][1::2], strict=True))
    for what, words in compared.items():
        alone = launch(f"alone-{names[what]}", words)
        assert carry_out(alone) == {names[what]: "done"}
        one, two = busy.folder(names[what]), alone.folder(names[what])
        assert_same(one.load_checkpoint(), two.load_checkpoint(), what)
        assert one.history() == two.history(), what
        assert one.history(), what


@pytest.mark.slow
def test_a_worker_whose_pool_is_gone_finishes_its_run_and_leaves_quietly(
    launch: Callable[..., Launch],
) -> None:
    made = launch("left", *((*MLP, "optimizer=sgd", f"seed={seed}") for seed in range(2)))
    worker = subprocess.Popen(
        [sys.executable, "-m", "bench.launch.worker", str(made.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert worker.stdout is not None
        worker.stdout.close()
        _, errors = worker.communicate("".join(f"{name}\n" for name in made.tasks[0]), timeout=240)
    finally:
        worker.kill()
        worker.wait()
    assert errors == ""
    assert worker.returncode == 0
    first, second = (made.folder(name) for name in made.tasks[0])
    assert first.finished
    assert second.status == {}  # for whoever goes on


@pytest.mark.slow
def test_short_runs_cost_less_in_one_process(launch: Callable[..., Launch]) -> None:
    """Start-up is most of a short run: the same three in one worker, and in one each."""
    grid = [(*MLP, "optimizer=muon", "trainer.compile=true", f"seed={seed}") for seed in range(3)]
    carry_out(launch("first", grid[0]))  # the cache on disk is filled
    together = cpu_of(launch("together", *grid))
    apart = sum(cpu_of(launch("apart", words)) for words in grid)
    print(f"three short compiled runs: {together:.1f} s of CPU together, {apart:.1f} s apart")
    assert together < 0.6 * apart


def cpu_of(launch: Launch) -> float:
    words = ["-m", "bench.launch.worker", str(launch.path)]
    return cpu_time.run(words, Path(), given="".join(f"{name}\n" for name in launch.tasks[0]))[1]


@pytest.mark.slow
def test_seeds_and_rates_share_compiled_code(tmp_path: Path) -> None:
    """Counted by torch itself: the second and third run compile nothing."""
    program = """
import sys
from torch._dynamo.utils import counters
from bench import config
from bench.train import train
for words in sys.argv[1:]:
    train(config.load(words.split()))
    print("frames", counters["frames"]["ok"], "recompiled", sum(counters["recompiles"].values()))
"""
    common = "model=mlp model.hidden=[8] tracker=none trainer.epochs=1 trainer.batch_size=600"
    common += " optimizer=spectral_newton trainer.compile=true trainer.threads=1"
    runs = [f"{common} {more}" for more in ("seed=0", "seed=1", "seed=2 optimizer.lr=0.3")]
    out, _ = cpu_time.run(["-c", program, *runs], tmp_path)
    counted = [line for line in out.splitlines() if line.startswith("frames")]
    assert len(counted) == 3
    assert len(set(counted)) == 1
    assert not counted[0].startswith("frames 0 ")


Make = Callable[..., RunConfig]


def test_a_failure_before_the_run_begins_is_written_down(
    quick: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = quick()
    folder = RunFolder(Path(one.runs_dir) / identify(one).id)
    monkeypatch.setattr("bench.train.build_parts", lambda *_, **__: torch.empty(2**60))
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
