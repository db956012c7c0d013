"""What SLURM says, read: with a cluster of a few lines of shell in place of the real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import sweep
from bench.errors import UserError
from bench.identity import identify
from bench.launch import manifest, slurm
from bench.launch.grid import Job
from bench.launch.manifest import Launch
from bench.launch.snapshot import environment
from bench.run_folder import RunFolder

Fake = Callable[..., None]


def test_the_queue_goes_before_the_books(fake: Fake) -> None:
    fake(
        squeue="7_0|RUNNING\n7_1|PENDING\n9|RUNNING",
        sacct="7_0|PREEMPTED|0:0\n7_2|OUT_OF_MEMORY|0:125\n7_3|CANCELLED by 0|0:0\n"
        "7_4|FAILED|1:0\n7_5|FAILED|137:0\n7_6|FAILED|0:9\n7_7|TIMEOUT|0:0\n7_8|FAILED|9:0|0:9\n"
        "7_9|FAILED|9:0|0:0\n7_10|FAILED|2:0|2:0",
    )
    asked = [f"7_{n}" for n in range(11)]
    assert slurm.job_states(asked) == {
        "7_0": "RUNNING",
        "7_1": "PENDING",
        "7_2": "OUT_OF_MEMORY",
        "7_3": "CANCELLED",
        "7_4": "FAILED",
        "7_5": "KILLED",
        "7_6": "KILLED",
        "7_7": "TIMEOUT",
        "7_8": "KILLED",
        "7_9": "KILLED",
        "7_10": "FAILED",
    }
    assert slurm.job_states([]) == {}


def test_without_accounting_the_controller_is_asked(fake: Fake) -> None:
    fake(
        squeue="",
        sacct=None,
        scontrol="JobId=12 ArrayJobId=7 ArrayTaskId=3 JobState=FAILED ExitCode=0:9\n"
        "JobId=13 JobState=COMPLETED ExitCode=0:0",
    )
    assert slurm.job_states(["7_3", "13"]) == {"7_3": "KILLED", "13": "COMPLETED"}


def test_the_largest_array(fake: Fake) -> None:
    fake(scontrol="Configuration data\nMaxArraySize            = 101\nMaxJobCount = 5")
    assert slurm.max_array_size() == 100
    fake(scontrol="nothing of it")
    assert slurm.max_array_size() == 1000
    fake(scontrol=None)
    with pytest.raises(UserError, match="hydra/launcher=local"):
        slurm.max_array_size()


def test_our_options_become_submitits() -> None:
    given = {"gpus": 2, "cpus": None, "mem_gb": 1.5, "time": 60, "parallel": 4, "more": {"x": 1}}
    assert slurm.parameters(given) == {
        "gpus_per_node": 2,
        "mem": "1536M",
        "time": 60,
        "array_parallelism": 4,
        "additional_parameters": {"x": 1},
    }


def kinds(launch: Launch, tmp_path: Path) -> list[Any]:
    ids = [name for task in launch.tasks for name in task]
    told = slurm.scheduler_status(tmp_path / "runs", ids)
    return [told[name].kind if told[name].state == "ended" else told[name].state for name in ids]


def test_one_run_is_blamed_for_the_end_of_its_job(
    fake: Fake, launch: Launch, tmp_path: Path
) -> None:
    first, second, third, other = (launch.folder(name) for task in launch.tasks for name in task)
    fake(squeue="7_0|PENDING\n7_1|RUNNING", sacct=None, scontrol=None)
    assert kinds(launch, tmp_path) == ["queued"] * 4
    for folder in (first, second, other):
        folder.path.mkdir(parents=True)
    first.set_status("done")
    other.set_status("running")
    assert kinds(launch, tmp_path) == ["queued", "queued", "queued", "running"]
    fake(squeue="", sacct="7_0|TIMEOUT|0:0\n7_1|COMPLETED|0:0")
    assert kinds(launch, tmp_path) == [None, "timeout", None, None]  # the first that never began
    first.set_status("failed", "why", kind="exception")  # an earlier launch's; not begun again
    assert kinds(launch, tmp_path)[1] == "timeout"
    third.path.mkdir()
    third.set_status("running")
    assert kinds(launch, tmp_path) == [None, None, "timeout", None]


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("OUT_OF_MEMORY|0:125", "out of memory"),
        ("TIMEOUT|0:0", "timeout"),
        ("DEADLINE|0:0", "timeout"),
        ("PREEMPTED|0:0", "preempted"),
        ("NODE_FAIL|0:0", "killed"),
        ("BOOT_FAIL|0:0", "killed"),
        ("FAILED|0:9", "killed"),
        ("FAILED|1:0", "exception"),
        ("COMPLETED|0:0", None),
        ("CANCELLED by 0|0:15", None),
    ],
)
def test_the_cause_is_what_slurm_says_of_the_end(
    fake: Fake, launch: Launch, tmp_path: Path, state: str, kind: str | None
) -> None:
    fake(squeue="", sacct=f"7_1|{state}", scontrol=None)
    assert kinds(launch, tmp_path)[3] == kind


def test_the_scheduler_status_is_of_the_newest_launch_only(
    fake: Fake, launch: Launch, tmp_path: Path
) -> None:
    job = launch.jobs()[3]
    later = manifest.create(tmp_path / "runs", [job], [[job.identity.id]], {})
    later.path.rename(later.path.with_name("99999999-later"))
    Launch(later.path.with_name("99999999-later")).note_jobs({"0": "8"})
    fake(squeue="7_1|RUNNING\n8|PENDING", sacct=None, scontrol=None)
    told = slurm.scheduler_status(tmp_path / "runs", [job.identity.id, "unheard of"])
    assert {name: status.job for name, status in told.items()} == {job.identity.id: "8"}


def test_a_run_that_failed_is_not_waited_for_with_the_rest_of_its_job(
    fake: Fake, launch: Launch, tmp_path: Path
) -> None:
    first = launch.folder(launch.tasks[0][0])
    first.path.mkdir(parents=True)
    first.set_status("failed", "ValueError: x", kind="exception")
    fake(squeue="7_0|RUNNING\n7_1|RUNNING", sacct=None, scontrol=None)
    assert kinds(launch, tmp_path)[0] == "running"  # it failed in an earlier launch
    launch.note_failure(launch.tasks[0][0])
    assert kinds(launch, tmp_path) == [None, "queued", "queued", "queued"]


def test_cancelling_what_is_in_the_queue(
    fake: Fake, launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["cancel", f"runs_dir={tmp_path / 'runs'}"]
    fake(squeue="7_1|PENDING\n8|RUNNING", scancel="")
    told = tmp_path / "told"
    (tmp_path / "bin" / "scancel").write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    sweep.main(words)
    assert f"{launch.name}: 1 jobs cancelled" in capsys.readouterr().out
    assert told.read_text() == "7_1\n"
    fake(squeue="8|RUNNING")
    with pytest.raises(UserError, match="nothing of it runs here"):
        sweep.main(words)
    fake(squeue="7_1|PENDING", scancel=None)
    with pytest.raises(UserError, match=r"SLURM does not answer .*cancel again"):
        sweep.main(words)


def test_arrays_are_as_long_as_the_site_allows(fake: Fake, launch: Launch, tmp_path: Path) -> None:
    jobs = launch.jobs()
    made = manifest.create(tmp_path / "runs", jobs, [[job.identity.id] for job in jobs], {})
    fake(scontrol="MaxArraySize = 3", srun="", sbatch="")
    (tmp_path / "bin" / "sbatch").write_text(
        f'#!/bin/sh\ncd {tmp_path}\ncat "$1" >> scripts\necho x >> count\n'
        "[ $(wc -l < count) = 4 ] && echo 'error: QOS limit' >&2 && exit 1\n"
        "echo Submitted batch job 4$(wc -l < count)\n"
    )
    code = tmp_path / "code"
    resources = slurm.parameters({"time": 7, "setup": ["module load x"], "more": {"hold": True}})
    assert slurm.submit(made, code, resources) == ["41", "42"]
    assert made.submitted == {"tasks": {"0": "41_0", "1": "41_1", "2": "42_0", "3": "42_1"}}
    lines = (tmp_path / "scripts").read_text().splitlines()
    asked = {"--time=7", "--hold", "--requeue", "--open-mode=append"}
    assert {f"#SBATCH {option}" for option in asked} <= set(lines)
    exports = [f"export {key}={value}" for key, value in environment(code).items()]
    setup = [line for line in lines if line.startswith(("export PYTHON", "module"))]
    assert setup == [*exports, "module load x"] * 2
    with pytest.raises(UserError, match=r"QOS limit; 2 of 4 jobs were submitted before$"):
        slurm.submit(made, code, resources)
    assert made.submitted["tasks"]["0"] == "43_0"
    with pytest.raises(UserError, match=r"^hydra\.launcher: .*no_such"):
        slurm.submit(made, code, {"no_such": 1})


def test_a_manifest_is_read_where_its_devices_are_not(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    one = launch.jobs()[0]
    trainer = one.config.trainer.model_copy(update={"device": "cuda"})
    there = one.config.model_copy(update={"trainer": trainer, "sweep": "a/b"})
    made = manifest.create(tmp_path / "runs", [Job((), there, one.identity)], [[]], {})
    assert made.jobs()[0].config == there
    assert manifest.find(tmp_path / "runs", made.name) == made


def test_a_manifest_gives_back_what_it_was_given(launch: Launch, tmp_path: Path) -> None:
    read = manifest.find(tmp_path / "runs", launch.name[:10])
    assert read == launch
    jobs = read.jobs()
    assert [job.config.seed for job in jobs] == [0, 1, 2, 3]
    assert [identify(job.config) for job in jobs] == [job.identity for job in jobs]
    assert read.submitted == {"tasks": {"0": "7_0", "1": "7_1"}}
    assert (
        read.folder(jobs[0].identity.id).path
        == RunFolder(tmp_path / "runs" / jobs[0].identity.id).path
    )
    with pytest.raises(UserError, match=f"launch=nothing: .* the newest are {launch.name}"):
        manifest.find(tmp_path / "runs", "nothing")
    with pytest.raises(UserError, match="launch one with -m"):
        manifest.find(tmp_path / "empty")
