"""Launches on disk, and a cluster of a few lines of shell in place of the real one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.config import RunConfig
from bench.identity import identify
from bench.launch import manifest
from bench.launch.grid import Job
from bench.launch.manifest import Launch


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``fake(squeue="...", sacct=None)``: commands that print a text, or fail."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")

    def make(**commands: str | None) -> None:
        for name, text in commands.items():
            body = "exit 1" if text is None else f"cat <<'END'\n{text}\nEND"
            (bin_ / name).write_text(f"#!/bin/sh\n{body}\n")
            (bin_ / name).chmod(0o755)

    return make


@pytest.fixture
def launch(tmp_path: Path, quick: Callable[..., RunConfig]) -> Launch:
    """Three runs in one task, one in another; jobs 7_0 and 7_1."""
    first = quick()
    runs = [first.model_copy(update={"seed": seed}) for seed in range(4)]
    jobs = [Job((f"seed={run.seed}",), run, identify(run)) for run in runs]
    ids = [job.identity.id for job in jobs]
    made = manifest.create(tmp_path / "runs", jobs, [ids[:3], ids[3:]], {"pack": 1})
    made.note_jobs({"0": "7_0"})
    made.note_jobs({"1": "7_1"})
    return made
