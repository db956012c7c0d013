"""``-m hydra/launcher=slurm`` up to the scheduler: which run goes into which job, and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.identity import tracker_label
from bench.launch import manifest
from bench.launch.manifest import Launch

Command = Callable[..., tuple[int, str, str]]
SHORT = ["-m", "model=mlp", "model.hidden=[8]", "tracker=none", "trainer.epochs=1"]
SHORT += ["trainer.batch_size=400", "trainer.threads=1", "hydra/launcher=slurm", "seed=range(10)"]


@pytest.fixture
def submitted(command: Command, fake: Callable[..., None], tmp_path: Path) -> Callable[..., Launch]:
    """``submitted(*words)``: a launch of ten runs as job 7, and what the command said of it."""

    def make(*words: str) -> Launch:
        fake(scontrol="MaxArraySize = 1001", srun="", squeue="", sacct=None)
        fake(sbatch="Submitted batch job 7")
        status, out, err = command(*SHORT, *words)
        assert (status, err) == (0, "")
        launch = manifest.find(tmp_path / "runs")
        said = f"submitted 10 runs in {len(launch.tasks)} jobs: 1 arrays (7)"
        assert out.splitlines()[:2] == ["10 planned: 10 missing", said]
        return launch

    return make


def test_short_runs_share_jobs_and_those_of_several_gpus_take_more(
    submitted: Callable[..., Launch],
) -> None:
    words = ["pack=2", "hydra.launcher.runs_per_job=2", "hydra.launcher.gpus=4"]
    launch = submitted(*words, "trainer.devices=2", "fail_fast_after=3")
    assert [len(task) for task in launch.tasks] == [8, 2]  # 2 after one another x 2 x 4 GPUs / 2
    assert [job.identity.id for job in launch.jobs()] == [*launch.tasks[0], *launch.tasks[1]]
    assert launch.submitted == {"tasks": {"0": "7_0", "1": "7_1"}}
    options = launch.options
    assert (options["pack"], options["devices"], options["fail_fast_after"]) == (2, 2, 3)
    assert "hydra/launcher=slurm" in options["words"]
    assert (launch.path / "code" / "bench" / "train.py").exists()


def test_what_is_queued_is_not_submitted_again_and_what_failed_is_told(
    submitted: Callable[..., Launch], command: Command, fake: Callable[..., None], tmp_path: Path
) -> None:
    launch = submitted("hydra.launcher.runs_per_job=5")
    fake(squeue="7_0|PENDING\n7_1|RUNNING")
    assert command(*SHORT) == (0, "10 planned: 10 queued\n", "")
    fake(squeue="")
    first, *others = (launch.folder(job.identity.id) for job in launch.jobs())
    label = tracker_label(launch.jobs()[0].config)
    for folder in others:
        folder.path.mkdir(parents=True)
        folder.set_status("done", None, [label])
    first.path.mkdir(parents=True)
    first.set_status("failed", "ValueError: x", kind="exception")
    status, out, err = command(*SHORT, "retry=none")
    assert status == 1
    assert out.startswith("10 planned: 9 done, 1 failed (1 exception)\n")
    assert "1 of 10 runs failed:\n  seed=0: exception: ValueError: x" in err
    assert manifest.find(tmp_path / "runs") == launch
