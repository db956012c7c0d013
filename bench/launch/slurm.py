"""SLURM: submitting tasks through submitit, and asking what became of them."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from bench.errors import UserError
from bench.launch.manifest import Launch, launches
from bench.launch.slurm_job import SlurmTask
from bench.launch.snapshot import environment
from bench.launch.status import JobStatus
from bench.run_folder import RunFolder

_QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "CONFIGURING", "SUSPENDED"}
_RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING"}
_KINDS = {
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "killed",
    "BOOT_FAIL": "killed",
    "KILLED": "killed",  # ours: FAILED, by a signal
    "FAILED": "exception",
}
_ALWAYS = {
    "open-mode": "append",  # a requeued job goes on with its log
    "requeue": True,
}
_QUEUE = ("squeue", "--me", "-h", "-r", "-o", "%i|%T")  # a line each job of an array

# Our names for submitit's parameters, where they differ.
_RENAMED = {
    "gpus": "gpus_per_node",
    "cpus": "cpus_per_task",
    "signal_before": "signal_delay_s",
    "parallel": "array_parallelism",
    "more": "additional_parameters",
}


def parameters(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of ``conf/hydra/launcher/slurm.yaml`` as submitit's executor has them."""
    named = {_RENAMED.get(key, key): value for key, value in resources.items()}
    memory = named.pop("mem_gb", None)
    if memory is not None:
        named["mem"] = f"{int(1024 * memory)}M"
    return {key: value for key, value in named.items() if value is not None}


def submit(launch: Launch, code: Path, resources: Mapping[str, Any]) -> list[str]:
    """Submit the tasks of ``launch`` as job arrays; return the arrays' ids.

    Args:
        launch: what to do; each array's jobs are noted in it as soon as they are known.
        code: the snapshot that the jobs run.
        resources: parameters of submitit's SLURM executor (``time``, ``partition``, ...).

    Raises:
        UserError: SLURM is not here, or refuses.
    """
    largest = max_array_size()
    exports = [f"export {key}={shlex.quote(text)}" for key, text in environment(code).items()]
    executor = submitit.SlurmExecutor(folder=launch.path / "logs", max_num_timeout=1000)
    own = dict(resources)
    setup = [*exports, *own.pop("setup", [])]
    more = {**_ALWAYS, **own.pop("additional_parameters", {})}
    try:
        executor.update_parameters(setup=setup, additional_parameters=more, **own)
    except ValueError as error:
        raise UserError(f"hydra.launcher: {' '.join(str(error).split())}") from error
    arrays: list[str] = []
    numbers = range(len(launch.tasks))
    for start in range(0, len(numbers), largest):
        part = numbers[start : start + largest]
        try:
            with executor.batch():
                jobs = [executor.submit(SlurmTask(str(launch.path), number)) for number in part]
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
            done = f"; {start} of {len(numbers)} jobs were submitted before" if start else ""
            raise UserError(f"sbatch refused: {_last_line(error)}{done}") from error
        names = [str(job.job_id) for job in jobs]
        launch.note_jobs({str(number): name for number, name in zip(part, names, strict=True)})
        arrays.append(names[0].partition("_")[0])
    return arrays


def _last_line(error: Exception) -> str:
    text = str(getattr(error, "stderr", None) or error).strip()
    return text.splitlines()[-1] if text else type(error).__name__


def max_array_size() -> int:
    """Return how many jobs one array may have.

    Raises:
        UserError: there is no SLURM here.
    """
    try:
        shown = _ask("scontrol", "show", "config")
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            "SLURM does not answer (scontrol show config); run this on a cluster's login node, "
            "or choose hydra/launcher=local"
        ) from error
    size = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown, re.MULTILINE)
    return max(1, int(size[1]) - 1) if size else 1000


def scheduler_status(runs_dir: Path, run_ids: Sequence[str]) -> dict[str, JobStatus]:
    """Return the scheduler status of the newest job of each run, for those that it had."""
    wanted, over = set(run_ids), set[str]()
    newest: dict[str, tuple[str, list[str], Path]] = {}
    for launch in launches(runs_dir):
        jobs = launch.submitted.get("tasks", {})
        over |= wanted & launch.failed  # their jobs may go on, with other runs
        for number, task in enumerate(launch.tasks):
            job = jobs.get(str(number))
            for run_id in wanted.intersection(task) if job else ():
                newest[run_id] = (job, task, launch.path / "logs" / f"{job}_0_log.err")
        wanted -= newest.keys()
        if not wanted:
            break
    states = job_states({job for job, _, _ in newest.values()})
    statuses: dict[str, JobStatus] = {}
    for run_id, (job, task, log) in newest.items():
        state = states.get(job, "")
        if run_id in over:
            statuses[run_id] = JobStatus("ended", None, None, job)
        elif state in _QUEUED:
            statuses[run_id] = JobStatus("queued", None, None, job)
        elif state in _RUNNING:
            begun = RunFolder(runs_dir / run_id).status
            statuses[run_id] = JobStatus("running" if begun else "queued", None, None, job)
        else:
            kind = _KINDS.get(state) if run_id == _interrupted(runs_dir, task) else None
            statuses[run_id] = JobStatus("ended", kind, log, job)
    return statuses


def _interrupted(runs_dir: Path, task: Sequence[str]) -> str | None:
    """Return the run of an ended job that was under way, or else the first that never began."""
    states = {run_id: RunFolder(runs_dir / run_id).status.get("state") for run_id in task}
    under_way = [run_id for run_id, state in states.items() if state == "running"]
    if under_way:
        return under_way[0]
    return next((run_id for run_id, state in states.items() if state is None), None)


def job_states(jobs: Iterable[str]) -> dict[str, str]:
    """Return SLURM's word for each job (``123_4``); KILLED for one that failed by a signal.

    What is in the queue is asked of squeue; what has ended, of sacct, or of the controller, which
    remembers for some minutes, where there is no accounting.
    """
    jobs = set(jobs)
    if not jobs:
        return {}
    states: dict[str, str] = {}
    for line in _lines(*_QUEUE):
        name, _, state = line.partition("|")
        states[name] = state
    rest = sorted({job.partition("_")[0] for job in jobs - states.keys()})
    if rest:
        ended = _accounted(rest) or _remembered(rest)
        states |= {name: state for name, state in ended.items() if name not in states}
    return {name: state for name, state in states.items() if name in jobs}


def _accounted(arrays: Sequence[str]) -> dict[str, str]:
    fields = "JobID,State,ExitCode,DerivedExitCode"
    command = ["sacct", "-n", "-P", "-X", "-j", ",".join(arrays), "-o", fields]
    states = {}
    for line in _lines(*command):
        name, state, *codes = line.split("|")
        states[name] = _named(state, codes)
    return states


def _remembered(arrays: Sequence[str]) -> dict[str, str]:
    states = {}
    for array in arrays:
        for line in _lines("scontrol", "-o", "show", "job", array):
            fields = dict(word.partition("=")[::2] for word in line.split())
            task = fields.get("ArrayTaskId")
            name = f"{fields.get('ArrayJobId')}_{task}" if task else fields.get("JobId", "")
            codes = [fields.get("ExitCode", ""), fields.get("DerivedExitCode", "")]
            states[name] = _named(fields.get("JobState", ""), codes)
    return states


def _named(state: str, codes: Sequence[str]) -> str:
    """Return the state; ``codes`` (status:signal, of the job and of its steps) show a kill.

    A job of ours ends itself with a status of at most 2. A signal's is 128 more than the signal,
    which sacct shows without the 128, and the steps' own code may not be known yet.
    """
    word = (state.split() or [""])[0]  # "CANCELLED by 0"
    parts = [code.partition(":") for code in codes]
    by_signal = any(
        number not in ("", "0") or (status.isdigit() and int(status) > 2)
        for status, _, number in parts
    )
    return "KILLED" if word == "FAILED" and by_signal else word


def cancel(jobs: Iterable[str]) -> int:
    """Cancel those of ``jobs`` that are in the queue or at work; return how many they were.

    Raises:
        UserError: SLURM does not answer, so that they may go on.
    """
    try:
        queued = {line.partition("|")[0] for line in _ask(*_QUEUE).splitlines()}
        ours = sorted(queued.intersection(jobs))
        for start in range(0, len(ours), 500):  # a command line has an end
            _ask("scancel", *ours[start : start + 500])
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"SLURM does not answer ({_last_line(error)}); jobs may go on: cancel again, "
            "on a login node"
        ) from error
    return len(ours)


def _lines(*command: str) -> list[str]:
    try:
        return [line for line in _ask(*command).splitlines() if line.strip()]
    except (OSError, subprocess.SubprocessError):
        return []


def _ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout
