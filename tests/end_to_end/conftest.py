"""Whole processes, started and killed as a user or a scheduler would."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest


class Command:
    """One ``python -m ...`` in a process group of its own, run in ``folder``."""

    def __init__(self, folder: Path, module: str, *options: str) -> None:
        self.arguments = [sys.executable, "-m", module, *options]
        self.folder = folder

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.arguments,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def killed_after(self, seconds: float) -> bool:
        """Run, SIGKILL the whole group after ``seconds``; return whether it was still at work."""
        process = subprocess.Popen(
            self.arguments,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        assert process.returncode == 0
        return False


def wait_for(condition, seconds: float = 60.0) -> None:
    """Return as soon as ``condition()`` is true; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def command(tmp_path: Path):
    """``command(module, *options)`` in a fresh working directory."""

    def make(module: str, *options: str, folder: Sequence[str] = ()) -> Command:
        return Command(tmp_path.joinpath(*folder), module, *options)

    return make


SLURM = Path(__file__).parents[1] / "slurm"
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "slurmdbd", "sacct", "mariadbd")


class Cluster:
    """A SLURM cluster on this machine; see tests/slurm/start.sh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def __call__(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    def idle(self) -> bool:
        return not self("squeue", "-h").strip()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Two nodes of two fake GPUs, with accounting; skipped where SLURM is not installed."""
    absent = [
        name
        for name in NEEDED
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None
    ]
    if absent:
        pytest.skip(f"needs SLURM: {', '.join(absent)} not found (.ci/run installs it as root)")
    folder = tmp_path_factory.mktemp("slurm")
    port = 20000 + os.getpid() % 20000
    environment = {
        **os.environ,
        "PATH": f"{os.environ['PATH']}:/usr/sbin",
        "ACCOUNTING": "1",
        "MAX_ARRAY_SIZE": "101",
    }
    started = subprocess.run(
        [str(SLURM / "start.sh"), str(folder), str(port)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=(folder / "start.err").open("w"),
        timeout=120,
        check=False,
    )
    try:
        assert started.returncode == 0, (folder / "start.err").read_text()
        made = Cluster(folder)
        made.environment["PATH"] = environment["PATH"]
        yield made
    finally:
        subprocess.run([str(SLURM / "stop.sh"), str(folder)], env=environment, check=False)
