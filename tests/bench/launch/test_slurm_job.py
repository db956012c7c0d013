"""What a job does around its runs: which of them are left, and whether it is to come back."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from bench.launch import slurm_job
from bench.launch.manifest import Launch
from bench.launch.pool import Pool
from bench.launch.slurm_job import SlurmTask
from bench.preemption import SIGNALS

Fake = Callable[..., None]


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_requeue_minds_the_state_of_the_job(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    said: list[str] = []
    monkeypatch.setattr(slurm_job, "log", said.append)
    fake(scontrol="JobId=5 JobState=RUNNING")
    slurm_job.requeue()
    fake(scontrol="JobId=5 JobState=CANCELLED")
    slurm_job.requeue()
    monkeypatch.setattr(slurm_job, "_PATIENCE", 0.5)
    fake(scontrol=None)
    slurm_job.requeue()
    assert said[:2] == ["requeued", "not requeued: the job is CANCELLED"]
    assert "the same launch command continues" in said[2]


def test_a_run_that_failed_before_the_requeue_is_not_tried_again(
    launch: Launch, capfd: pytest.CaptureFixture[str]
) -> None:
    for run_id in launch.tasks[0]:
        launch.note_failure(run_id)
    assert SlurmTask(str(launch.path), 0)() == {}
    assert "begins; GPUs none, 1 workers, 0 runs" in capfd.readouterr().out
    assert not launch.folder(launch.tasks[0][0]).path.exists()


def test_each_worker_has_its_devices(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    content = launch.content | {"options": {"pack": 3, "devices": 2}, "tasks": [[]]}
    (launch.path / "manifest.json").write_text(json.dumps(content))
    assert SlurmTask(str(launch.path), 0)() == {}
    assert "begins; GPUs 0,1,2,3, 6 workers, 0 runs" in capfd.readouterr().out


def test_a_job_that_gives_up_does_not_come_back(
    launch: Launch, fake: Fake, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake(scontrol="JobId=5 JobState=RUNNING")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    content = launch.content | {"options": {"fail_fast_after": 1}}
    (launch.path / "manifest.json").write_text(json.dumps(content))
    launch.note_failure(launch.tasks[0][0])  # in another job
    assert SlurmTask(str(launch.path), 1)() == {}
    assert "requeued" not in capfd.readouterr().out


def test_a_stopped_job_comes_back_and_a_job_without_a_signal_does_not(
    launch: Launch, fake: Fake, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The pool is told to stop before it has begun anything: its runs are left for later."""
    fake(scontrol="JobId=5 JobState=RUNNING")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    run = Pool.run

    def interrupted(pool: Pool) -> None:
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGTERM)
        run(pool)

    monkeypatch.setattr(Pool, "run", interrupted)
    with pytest.raises(SystemExit, match="1"):
        SlurmTask(str(launch.path), 1)()
    out = capfd.readouterr().out
    for said in ("SIGUSR2: checkpoint and leave", "SIGTERM: checkpoint and leave", " requeued"):
        assert said in out
    launch.note_failure(launch.tasks[1][0])  # nothing is left to come back for
    assert SlurmTask(str(launch.path), 1)() == {}
    assert "requeued" not in capfd.readouterr().out


def test_a_signal_may_interrupt_the_answer_to_another(launch: Launch) -> None:
    pool = Pool(launch, [], [], lambda text: None)

    def twice() -> None:
        with pool._lock:  # as in stop(), when the second signal comes
            pool.stop()

    thread = threading.Thread(target=twice, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
