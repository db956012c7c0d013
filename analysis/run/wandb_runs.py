"""Runs as W&B tells them: offline logs in a folder, or what `wandb_server` was told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from analysis.run import wandb_files
from analysis.run.cache import Told
from analysis.run.folders import file_stamp
from analysis.run.frame import STATES, RunRecord, nearest, warn
from bench.files import is_name

# Job types of what lies beside runs on W&B and is none: published comparisons.
NO_RUNS = ("report",)


def offline_records(folder: Path) -> Iterator[RunRecord]:
    """Yield the runs whose logs lie anywhere under ``folder``; damaged logs give a `RunWarning`."""
    for run_id, paths in _logs(folder).items():
        attempts = []
        for path in paths:
            try:
                attempts.append(wandb_files.read_file(path, history=False))
            except (OSError, wandb_files.WandbFileError) as error:
                warn(str(error))
        if not attempts:
            yield RunRecord(run_id, "unreadable")
            continue
        run = wandb_files.fold(attempts)
        if run.job_type not in NO_RUNS:
            yield record(run_id, run.config, run.summary)


def offline_stamps(folder: Path) -> list[str]:
    """Return a text for each log under ``folder``, another whenever the log changes."""
    return [f"{path} {file_stamp(str(path))}" for path in wandb_files.find_files(folder)]


def offline_history(folder: Path, run_id: str) -> list[dict[str, Any]]:
    """Return every history row of one run, its attempts merged by step.

    Raises:
        ValueError: no such run, or a damaged log.
    """
    logs = _logs(folder)
    if run_id not in logs:
        raise ValueError(f"{folder}: no offline log of run {run_id!r}{nearest(run_id, logs)}")
    return wandb_files.fold([wandb_files.read_file(path) for path in logs[run_id]]).history


def _logs(folder: Path) -> dict[str, list[Path]]:
    """Return the offline logs under ``folder`` by run id."""
    logs: dict[str, list[Path]] = defaultdict(list)
    for path in wandb_files.find_files(folder):
        logs[wandb_files.run_id(path)].append(path)
    return logs


def server_records(told: Iterable[Told]) -> list[RunRecord]:
    """Return the runs that a server told, the attempts of one run folded into one.

    Attempts that W&B took for runs of their own state the same id in their config: the finished
    one counts, or the one that came furthest.
    """
    attempts: dict[str, list[Told]] = defaultdict(list)
    for one in told:
        own = one.config.get("id", one.id)
        if is_name(own):
            attempts[own].append(one)
        else:
            warn(f"wandb: {own!r} is no name of a run; it is left out")
    return [
        record(run_id, best.config, best.summary)
        for run_id, ones in attempts.items()
        for best in [max(ones, key=_progress)]
    ]


def _progress(told: Told) -> tuple[bool, float, str]:
    steps = told.summary.get("steps", told.summary.get("_step", -1))
    return (told.summary.get("state") in ("done", "diverged"), float(steps or 0), told.id)


def record(run_id: str, config: Mapping[str, Any], summary: Mapping[str, Any]) -> RunRecord:
    """Return the run that W&B tells: its state is in the summary, its provenance in the config."""
    said, provenance = summary.get("state"), config.get("provenance")
    # Tables and images: W&B tells where they are, with a "_type".
    summary = {
        name: value
        for name, value in summary.items()
        if not (isinstance(value, Mapping) and "_type" in value)
    }
    state = str(said) if said in STATES[:-1] else "running"  # one that wrote none did not end
    return RunRecord(
        run_id, state, config, summary, provenance if isinstance(provenance, Mapping) else {}
    )
