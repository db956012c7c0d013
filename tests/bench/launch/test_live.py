"""Watching a launch: until nobody is at it, and no longer."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bench import sweep
from bench.errors import RunsFailedError, UserError
from bench.identity import tracker_label
from bench.launch import live
from bench.launch.manifest import Launch
from bench.run_folder import RunFolder


@pytest.fixture
def local(launch: Launch) -> Launch:
    """A launch on this machine, of this process."""
    launch.note_process()
    return launch


def folders(launch: Launch) -> list[RunFolder]:
    made = [launch.folder(job.identity.id) for job in launch.jobs()]
    for folder in made:
        folder.path.mkdir(parents=True, exist_ok=True)
    return made


def runs_dir(launch: Launch) -> Path:
    return launch.path.parent.parent


def finish(folder: RunFolder, launch: Launch) -> None:
    label = tracker_label(launch.config(folder.path.name))
    folder.set_status("done", None, [label])


def forget_process(launch: Launch) -> None:
    """Another process has the pid now: the one of the launch is dead."""
    noted = launch.submitted["process"] | {"started": "1"}
    (launch.path / "jobs.json").write_text(json.dumps({"process": noted}))


def test_a_launch_is_not_over_between_two_of_its_runs(local: Launch) -> None:
    first, *others = folders(local)
    finish(first, local)
    assert not live.over(local, live.now(local, runs_dir(local)))
    for folder in others:
        finish(folder, local)
    assert live.over(local, live.now(local, runs_dir(local)))


def test_a_launch_whose_process_is_dead_is_over_once_its_workers_are(local: Launch) -> None:
    first = folders(local)[0]
    forget_process(local)
    assert live.over(local, live.now(local, runs_dir(local)))
    first.acquire()
    assert not live.over(local, live.now(local, runs_dir(local)))
    first.release()


def test_a_process_of_another_machine_is_not_taken_for_ours(local: Launch) -> None:
    assert local.process is not None
    noted = local.submitted["process"] | {"machine": "another boot"}
    (local.path / "jobs.json").write_text(json.dumps({"process": noted}))
    assert local.process is None


def test_watch_writes_a_line_for_each_change_and_fails_at_the_end(
    local: Launch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_INTERVAL", 0.05)
    first, *others = folders(local)
    raised: list[Exception] = []

    def watch() -> None:
        try:
            sweep.main(["watch", f"runs_dir={runs_dir(local)}"])
        except RunsFailedError as error:
            raised.append(error)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    time.sleep(0.5)
    for folder in others:
        finish(folder, local)
    first.set_status("failed", "ValueError: x", kind="exception")
    thread.join(30)
    assert not thread.is_alive()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 planned: 4 missing"
    assert lines[-1] == "4 planned: 3 done, 1 failed (1 exception)"
    assert "1 of 4 runs failed:\n  seed=0: exception: ValueError: x" in str(raised[0])


def test_the_table_shows_what_is_not_done(
    launch: Launch, fake: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(squeue="7_0|RUNNING", sacct="7_1|OUT_OF_MEMORY|0:125")
    monkeypatch.setenv("COLUMNS", "140")
    done, running, _, dead = folders(launch)
    finish(done, launch)
    running.set_status("running")
    running.write_history([{"step": 40}, {"step": 41}])
    sweep.main(["status", f"runs_dir={runs_dir(launch)}"])
    out = capsys.readouterr().out
    head, _, *rows = out.splitlines()
    assert head == (
        f"{launch.name}: 4 planned: 1 done, 1 running, 1 queued, 1 failed (1 out of memory)"
    )
    assert [row.split() for row in rows[:3]] == [
        [running.path.name, "running", "41", "seed=1"],
        [dead.path.name, "failed:", "out", "of", "memory", "0", "seed=3"],
        [launch.tasks[0][2], "queued", "seed=2"],
    ]
    assert "seed=3: out of memory: its job 7_1 ended" in out


def test_the_command_that_runs_a_failure_again_is_that_of_the_launch(
    local: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = local.content | {"options": {"words": ["hydra/launcher=slurm"]}}
    (local.path / "manifest.json").write_text(json.dumps(content))
    folders(local)[0].set_status("failed", "ValueError: x", kind="exception")
    sweep.main(["status", f"runs_dir={runs_dir(local)}"])
    again = "again: spectral-bench train -m hydra/launcher=slurm seed=0"
    assert again in capsys.readouterr().out
    forget_process(local)
    with pytest.raises(RunsFailedError, match=again):
        sweep.main(["watch", f"runs_dir={runs_dir(local)}"])


def test_cancel_tells_the_process_of_a_launch(local: Launch) -> None:
    program = """
import sys, time
from pathlib import Path
from bench.launch.manifest import Launch
Launch(Path(sys.argv[1])).note_process()
print("noted", flush=True)
time.sleep(60)
"""
    words = ["cancel", f"runs_dir={runs_dir(local)}"]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(local.path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "noted\n"
        sweep.main(words)
        assert process.wait(timeout=30) == -signal.SIGTERM
    with pytest.raises(UserError, match="nothing of it runs here"):
        sweep.main(words)


def test_logs_are_found_by_the_beginning_of_an_id(
    launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"runs_dir={runs_dir(launch)}"
    with pytest.raises(UserError, match="runs of a single process print to its terminal"):
        sweep.main(["logs", "run=digits", where])
    first, second, *_ = folders(launch)
    (first.path / "log.txt").write_text("one\ntwo\nthree\n")
    (second.path / "log.txt").write_text("four\n")
    sweep.main(["logs", f"run={first.path.name[:-2]}", "lines=2", where])
    assert capsys.readouterr().out == f"==> {first.path / 'log.txt'} <==\ntwo\nthree\n"
    with pytest.raises(UserError, match=r"run=digist: no log in .*choices: digits-"):
        sweep.main(["logs", "run=digist", where])
