"""Runs that are preempted, or longer than their jobs, on a real SLURM: nothing shows afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.runs import load_history, load_runs
from bench.launch import manifest
from bench.run_folder import RunFolder

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[2]
RUN = [
    "model=mlp",
    "model.hidden=[8]",
    "optimizer=sgd",
    "optimizer._target_=parts.Slow",
    "dataset.pad=1",
    "trainer.epochs=45",
    "trainer.threads=1",
    "trainer.log_every=7",
]


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)


def step_of(folder: RunFolder) -> int:
    rows = folder.history()
    return int(rows[-1]["step"]) if rows else 0


def test_preempted_and_timed_out_runs_are_as_if_undisturbed(
    cluster: Any, tmp_path: Path, assert_same_files: Callable[[Path, Path], None]
) -> None:
    """The code is edited after the submit, too: the jobs run what was there before."""
    site = tmp_path / "site"
    for name in ("bench", "optimizers", "analysis", "hydra_plugins", "conf", "sweeps"):
        shutil.copytree(CHECKOUT / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).with_name("slurm_parts.py"), site / "parts.py")

    def train(*words: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "bench.train", "-m", *words],
            cwd=site,
            env={**cluster.environment, "PYTHONPATH": str(site), **more},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    resources = ["hydra/launcher=slurm", "hydra.launcher.cpus=1", "time=1"]
    train(*RUN, "seed=0,1", *resources, "hydra.launcher.signal_before=10")
    launch = manifest.find(site / "runs")
    by_seed = {job.config.seed: launch.folder(job.identity.id) for job in launch.jobs()}
    folders = {seed: RunFolder(site / folder.path) for seed, folder in by_seed.items()}
    train(*RUN, "seed=0,1", "runs_dir=calm", NO_SLEEP="1")
    with (site / "bench" / "seeding.py").open("a") as file:
        file.write("\n\ndef derive(seed, *purpose):\n    raise SystemError('the edited code')\n")
    (site / "parts.py").write_text("raise SystemError('the edited module')\n")

    # One of them is preempted; both reach the limit of a minute.
    wait_for(lambda: step_of(folders[1]) > 20, 240)
    urgent = cluster(
        *("sbatch", "--parsable", "--output=/dev/null"),
        *("-p", "urgent", "-N2", "--exclusive", "--wrap", "sleep 2"),
    )
    state = ("sacct", "-n", "-X", "-j", urgent.strip(), "-o", "state")
    wait_for(lambda: cluster(*state).strip() == "COMPLETED", 90)
    wait_for(lambda: all(f.status.get("state") == "done" for f in folders.values()), 480)

    for folder in folders.values():
        name = folder.path.name
        attempts = folder.provenance["attempts"]
        assert len(attempts) >= 2
        assert "continues at step" in (folder.path / "log.txt").read_text()
        assert_same_files(folder.path, site / "calm" / name)
        source, steps = f"offline:{site / 'runs'}", [row["step"] for row in folder.history()]
        # wandb's service writes the last of a log after a run has let go of it.
        wait_for(lambda: len(load_history(source, name)) >= len(steps), 60)  # noqa: B023
        assert sorted(load_runs(source)["id"]) == sorted(f.path.name for f in folders.values())
        rows = load_history(source, name)
        assert list(rows["step"]) == sorted(set(rows["step"])) == steps
    code = (launch.path / "code").resolve()
    assert "the edited code" not in (code / "bench" / "seeding.py").read_text()
    assert {"commit", "dirty", "diff"} <= json.loads((code / "snapshot.json").read_text()).keys()


@pytest.fixture
def assert_same_files() -> Callable[[Path, Path], None]:
    def same(one: Path, two: Path) -> None:
        assert (one / "history.jsonl").read_bytes() == (two / "history.jsonl").read_bytes()
        states = [torch.load(path / "checkpoint.pt", weights_only=True) for path in (one, two)]
        assert states[0]["step"] == states[1]["step"]
        for name, tensor in states[0]["model"].items():
            assert torch.equal(tensor, states[1]["model"][name]), name
        summaries = [json.loads((path / "summary.json").read_text()) for path in (one, two)]
        kept = ("steps", "train/loss", "val/loss", "test/accuracy", "best/epoch")
        assert [summaries[0][key] for key in kept] == [summaries[1][key] for key in kept]

    return same
