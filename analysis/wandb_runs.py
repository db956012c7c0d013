"""Runs from W&B: offline logs in a folder, or a project on a server (never sampled)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from analysis import wandb_files
from analysis.run_frame import STATES, RunRecord, nearest, warn

_PER_PAGE = 200  # runs a request: few round trips, each answered in good time
_TIMEOUT = 60  # seconds a request


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
        yield record(run_id, run.config, run.summary)


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


def server_records(project: str) -> Iterator[RunRecord]:
    """Yield the runs of ``<entity>/<project>``; login and address are wandb's own settings.

    Raises:
        ValueError: no such project, no login or no connection; one line.
    """
    import wandb

    entity, _, name = project.partition("/")
    if not entity or not name or "/" in name:
        raise ValueError(f"wandb:{project}: write wandb:<entity>/<project>")
    try:
        # lazy=False brings config and summary with the page, not with a request for each run.
        runs = wandb.Api(timeout=_TIMEOUT).runs(project, per_page=_PER_PAGE, lazy=False)
        for run in runs:
            summary = dict(run.summary_metrics)
            yield record(run.id, dict(run.config), summary)
    except Exception as error:  # the client has several unrelated families of errors
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"wandb:{project}: {reason}; check `wandb login` and the network, "
            "or read the same runs with offline:<folder>"
        ) from error


def record(run_id: str, config: Mapping[str, Any], summary: Mapping[str, Any]) -> RunRecord:
    """Return the run that W&B tells: its state is in the summary, its provenance in the config."""
    said, provenance = summary.get("state"), config.get("provenance")
    state = str(said) if said in STATES[:-1] else "running"  # one that wrote none did not end
    return RunRecord(
        run_id, state, config, summary, provenance if isinstance(provenance, Mapping) else {}
    )
