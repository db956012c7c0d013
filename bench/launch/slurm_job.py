"""What one SLURM job does: the runs of its task, side by side if packed, until it is to stop.

submitit calls ``SlurmTask`` in the job. Its own signal handling is replaced: it knows one signal,
ends other processes at once, and takes every signal for a timeout where the limit is short.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from bench.launch.manifest import Launch
from bench.launch.pool import Pool, slots, visible_devices
from bench.preemption import SIGNALS

_PATIENCE = 60.0  # seconds for a controller that is being restarted


@dataclass(frozen=True)
class SlurmTask:
    """Task ``number`` of the launch in the folder ``launch``."""

    launch: str
    number: int

    def __call__(self) -> dict[str, str]:
        """Carry out the task's runs; return how each ended. Leaves by a requeue if stopped."""
        launch = Launch(Path(self.launch))
        options = launch.options
        devices = slots(visible_devices(), options.get("pack", 1), options.get("devices", 1))
        failed = launch.failed  # before a requeue; to try again is the user's choice
        runs = [run_id for run_id in launch.tasks[self.number] if run_id not in failed]
        pool = Pool(launch, runs, devices, log)
        heard: list[int] = []

        def stop(number: int, frame: FrameType | None) -> None:
            del frame
            heard.append(number)
            log(f"{signal.Signals(number).name}: checkpoint and leave")
            pool.stop()

        for number in SIGNALS:
            signal.signal(number, stop)
        shared = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
        log(f"begins; GPUs {shared}, {len(devices)} workers, {len(runs)} runs")
        pool.run()
        log("ends")
        if heard and pool.unfinished:
            requeue()
            sys.exit(1)
        return pool.outcomes


def log(text: str) -> None:
    """Write a line into the job's log, with the time and the node.

    Past ``print``, which fails where a signal handler interrupts another one.
    """
    clock = time.strftime("%H:%M:%S")
    line = f"{clock} {os.environ.get('SLURMD_NODENAME', '')} {text}\n"
    os.write(sys.stdout.fileno(), line.encode())


def requeue() -> None:
    """Ask for this job to be run again, unless it is being cancelled, or requeued already."""
    job = os.environ.get("SLURM_JOB_ID", "")
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        shown = _run("scontrol", "-o", "show", "job", job)
        if shown is None:  # the controller is away
            time.sleep(1.0)
            continue
        state = next((w[9:] for w in shown.split() if w.startswith("JobState=")), "")
        if state != "RUNNING":
            log(f"not requeued: the job is {state}")
            return
        if _run("scontrol", "requeue", job) is not None:
            log("requeued")
            return
        time.sleep(1.0)
    log("not requeued: SLURM does not answer; the same launch command continues the runs")


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
