"""A run that was really trained, by the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def train(folder: Path, *words: str) -> Path:
    """Train one run below ``folder``, without a tracker; return its run folder."""
    command = [sys.executable, "-m", "bench.train", *words, "tracker=none"]
    command.append(f"runs_dir={folder}/runs")
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (run,) = (folder / "runs").glob("*-s0-*")
    return run
