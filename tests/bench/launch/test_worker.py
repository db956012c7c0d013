"""Runs of one process: none of them shows in the results of those after it, bit for bit on CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cpu_time
import pytest

from bench import config
from bench.identity import identify
from bench.launch import manifest
from bench.launch.grid import Job
from bench.launch.manifest import Launch
from bench.launch.pool import Pool, slots

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
