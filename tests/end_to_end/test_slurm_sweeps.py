"""Sweeps on a real SLURM: arrays, failures, packing, overlap, a restarted controller."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cpu_time
import pytest

from bench.launch import manifest
from bench.run_folder import RunFolder

pytestmark = pytest.mark.slow

TINY = [
    "hydra/launcher=slurm",
    "hydra.launcher.cpus=1",
    "time=10",
    "model=mlp",
    "model.hidden=[8]",
    "trainer.epochs=1",
    "trainer.threads=1",
    "tracker=none",
]
FRAGILE = ["optimizer=sgd", "optimizer._target_=parts.Fragile"]
CLOCK = r"(\d\d):(\d\d):(\d\d) (n\d)"


@pytest.fixture
def sweep(cluster: Any, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``sweep(module, *words)`` in a working directory with a user's module of its own."""
    shutil.copy(Path(__file__).with_name("slurm_parts.py"), tmp_path / "parts.py")

    def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *words],
            cwd=tmp_path,
            env=cluster.environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    return run


def folders(root: Path) -> list[RunFolder]:
    return [RunFolder(path.parent) for path in sorted(root.glob("*/config.json"))]


def seconds(text: str) -> tuple[int, str]:
    hours, minutes, rest, node = re.match(CLOCK, text).groups()  # type: ignore[union-attr]
    return 3600 * int(hours) + 60 * int(minutes) + int(rest), node


def test_twelve_runs_on_two_nodes_of_two_gpus(sweep: Any, cluster: Any, tmp_path: Path) -> None:
    done = sweep("bench.train", "-m", *TINY, "optimizer=sgd,adamw", "seed=0,1,2,3,4,5", "wait=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 planned: 12 missing\nsubmitted 12 runs in 12 jobs: 1 arrays")
    assert "12 planned: 12 done" in done.stdout
    runs = folders(tmp_path / "runs")
    assert [run.status["state"] for run in runs] == ["done"] * 12
    assert all(run.provenance["attempts"][0]["packed"] == 1 for run in runs)

    launch = manifest.find(tmp_path / "runs")
    jobs = list(launch.submitted["tasks"].values())
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_{number}" for number in range(12)]
    used = defaultdict(list)  # each GPU by node, and when it was in use
    for log in (launch.path / "logs").glob("*_log.out"):
        lines = [line for line in log.read_text().splitlines() if re.match(CLOCK, line)]
        (gpu,) = re.findall(r"begins; GPUs (\d), 1 workers, 1 runs", lines[0])
        start, node = seconds(lines[0])
        used[node, gpu].append((start, seconds(lines[-1])[0]))
    assert set(used) == {("n1", "0"), ("n1", "1"), ("n2", "0"), ("n2", "1")}
    for spans in used.values():
        spans.sort()
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_failures_are_named_and_the_same_command_mends_them(sweep: Any, tmp_path: Path) -> None:
    rates = [0.01, 0.02, 0.03, *(0.1 + 0.01 * k for k in range(9))]
    words = [*TINY, *FRAGILE, f"optimizer.lr={','.join(f'{rate:g}' for rate in rates)}"]
    short = "hydra.launcher.runs_per_job=3"
    first = sweep("bench.train", "-m", *words, short, "wait=true")
    assert first.returncode == 1
    assert "3 of 12 runs failed:" in first.stderr
    assert "submitted 12 runs in 4 jobs" in first.stdout
    assert "optimizer.lr=0.01: exception: ArithmeticError: no such step" in first.stderr
    assert "optimizer.lr=0.02: out of memory: RuntimeError" in first.stderr
    assert "optimizer.lr=0.03: killed: its process ended by SIGKILL" in first.stderr
    assert first.stderr.count("    again: spectral-bench train -m hydra/launcher=slurm") == 3
    kept = {run.path: run.provenance for run in folders(tmp_path / "runs")}
    good = [path for path in kept if RunFolder(path).status["state"] == "done"]
    assert len(good) == 9

    status = sweep("bench.sweep", "status")
    assert "12 planned: 9 done, 3 failed (" in status.stdout
    plan = sweep("bench.sweep", "plan", *words)
    assert "to do: 3, about" in plan.stdout
    name = next(path.name for path in kept if "0.01" in str(RunFolder(path).config["optimizer"]))
    assert "ArithmeticError" in sweep("bench.sweep", "logs", f"run={name}").stdout

    (tmp_path / "mended").touch()
    again = sweep("bench.train", "-m", *words, short, "wait=true")
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("12 planned: 9 done, 3 failed (")
    assert "submitted 3 runs in 1 jobs" in again.stdout
    assert all(run.status["state"] == "done" for run in folders(tmp_path / "runs"))
    assert all(RunFolder(path).provenance == kept[path] for path in good)  # not trained again


def test_a_job_that_is_killed_whole_is_named(sweep: Any, tmp_path: Path) -> None:
    words = [*TINY, "optimizer=sgd", "optimizer._target_=parts.Slow", "trainer.epochs=500"]
    words += ["trainer.checkpoint_seconds=0"]
    assert sweep("bench.train", "-m", *words).returncode == 0
    runs = tmp_path / "runs"
    deadline = time.monotonic() + 240
    while not list(runs.glob("*/checkpoint.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (folder,) = folders(runs)
    worker = int(folder.status["pid"])
    supervisor = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (supervisor, worker):
        os.kill(pid, signal.SIGKILL)
    watched = sweep("bench.sweep", "watch")
    assert watched.returncode == 1
    assert "1 failed (1 killed)" in watched.stdout
    assert "killed: its job" in watched.stderr


def test_packed_runs_share_a_gpu_and_say_so(sweep: Any, tmp_path: Path) -> None:
    words = [*TINY, "optimizer=sgd", "seed=0,1,2,3", "pack=2", "hydra.launcher.runs_per_job=2"]
    done = sweep("bench.train", "-m", *words, "wait=true")
    assert done.returncode == 0, done.stderr
    assert "submitted 4 runs in 1 jobs" in done.stdout
    runs = folders(tmp_path / "runs")
    assert len(runs) == 4
    for run in runs:
        assert run.provenance["attempts"][0]["packed"] == 2
        assert f"{run.path.name}: done" in (run.path / "log.txt").read_text()
    pids = {run.status["pid"] for run in runs}
    assert len(pids) == 2  # two workers, two runs each


def test_hundreds_are_submitted_at_once(sweep: Any, cluster: Any, tmp_path: Path) -> None:
    words = [*TINY, "optimizer=sgd,adamw", "seed=range(250)", "hydra.launcher.more={hold: true}"]
    slow = cpu_time.slowness(tmp_path)
    start = time.monotonic()
    launch = ["-m", "bench.train", "-m", *words]
    out, work = cpu_time.run(launch, tmp_path, cluster.environment)
    wall = time.monotonic() - start
    assert "submitted 500 runs in 500 jobs: 5 arrays" in out  # MaxArraySize is 101 here
    print(f"launching 500: {work:.1f} s of CPU, {wall:.1f} s in all, {slow:.2f} times slow")
    assert work < 7.5 * slow  # 10 s of a quiet machine with sbatch's own time; about 5 measured
    if os.getloadavg()[0] < 1.5 and slow < 1.2:
        assert wall < 10.0
    again = sweep("bench.sweep", "plan", *words)
    assert again.stdout.splitlines()[1] == "500 planned: 500 queued"
    assert sweep("bench.sweep", "cancel").returncode == 0
    deadline = time.monotonic() + 120
    while not cluster.idle():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "500 planned: 500 missing" in sweep("bench.sweep", "status").stdout


def test_two_sweeps_at_once_and_a_restarted_controller(
    sweep: Any, cluster: Any, tmp_path: Path
) -> None:
    words = ["-m", "bench.train", "-m", *TINY, "optimizer=sgd", "seed=0,1,2,3"]
    twins = [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=tmp_path,
            env=cluster.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert [twin.wait(timeout=400) for twin in twins] == [0, 0]
    os.kill(int((cluster.folder / "slurmctld.pid").read_text()), signal.SIGTERM)
    time.sleep(3.0)  # it writes its state, and the jobs go on without it
    cluster("slurmctld")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        runs = folders(tmp_path / "runs")
        if len(runs) == 4 and all(run.status.get("state") == "done" for run in runs):
            break
        time.sleep(0.5)
    assert [run.status["state"] for run in folders(tmp_path / "runs")] == ["done"] * 4
    watched = sweep("bench.sweep", "watch")
    assert watched.returncode == 0, watched.stderr
    assert all(len(run.provenance["attempts"]) == 1 for run in folders(tmp_path / "runs"))
