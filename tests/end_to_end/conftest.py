"""Whole processes, started and killed as a user or a scheduler would."""

from __future__ import annotations

import os
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
