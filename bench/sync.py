"""Send runs that were trained offline to a W&B server, from their run folders.

    spectral-bench sync runs=runs project=spectral-bench entity=<user or team>

Address and login are wandb's own: WANDB_BASE_URL, WANDB_API_KEY or `wandb login`. A run keeps its
id, so that an upload that was interrupted goes on where it stopped, and nothing is sent twice.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.progress import track

from bench import options as cli
from bench.errors import UserError
from bench.run_folder import RunFolder, is_run
from bench.tracking import RunInfo, WandbTracker


class SyncOptions(cli.Options):
    """Options of ``spectral-bench sync``."""

    runs: Path = Field(Path("runs"), description="the folder of run folders, or one run folder")
    project: str = Field("spectral-bench", description="W&B project")
    entity: str | None = Field(None, description="W&B user or team; null: the account's own")
    sweep: str | None = Field(None, description="only the runs of this sweep")


def main(argv: list[str]) -> int:
    """Send every finished run that the server does not have yet; return 1 if one could not be."""
    options = cli.parse(
        SyncOptions,
        argv,
        prog="spectral-bench sync",
        description="Send runs that were trained offline to a W&B server.",
        examples=["runs=runs project=spectral-bench", "runs=runs/<run id>"],
    )
    label = label_of(options.project, options.entity)
    folders = _run_folders(options.runs, options.sweep)
    waiting = [folder for folder in folders if folder.finished and label not in folder.tracked]
    done = sum(label in folder.tracked for folder in folders)
    unfinished = len(folders) - len(waiting) - done
    failures = []
    for folder in track(waiting, "sending", transient=True, disable=not sys.stderr.isatty()):
        try:
            send(folder, options.project, options.entity)
        except UserError as error:
            failures.append(str(error))
        except Exception as error:  # the client has several unrelated families of errors
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            failures.append(f"{folder.path}: {reason}")
            if not failures[1:]:
                continue
            break  # twice in a row it is the server, not the run
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    sent = len([folder for folder in waiting if label in folder.tracked])
    print(f"{sent} runs sent to {label}, {done} there already, {unfinished} unfinished")
    return 1 if failures else 0


def label_of(project: str, entity: str | None) -> str:
    """Return the name, in a run's status, of the server and project that hold a whole run."""
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")
    return f"{address}/{entity or '(default)'}/{project}"


def send(folder: RunFolder, project: str, entity: str | None) -> None:
    """Send one finished run, from the row that the server has last, and note that it has it all.

    Raises:
        UserError: another process is working on the run.
    """
    with folder.held():
        config = folder.config
        attempts = folder.provenance.get("attempts", [])
        known: dict[str, Any] = {**config, "provenance": attempts[-1] if attempts else {}}
        asked = config.get("tracker") or {}
        kept = {name: asked[name] for name in ("tags", "job_type", "x") if name in asked}
        info = RunInfo(folder.path.name, config.get("sweep"), known, folder.path.parent)
        tracker = WandbTracker(info, project=project, entity=entity, mode="online", **kept)
        tracker.start()
        tracker.log(folder.history())
        tracker.finish(folder.summary)
        folder.add_tracked(label_of(project, entity))


def _run_folders(root: Path, sweep: str | None) -> list[RunFolder]:
    """Return the run folders in ``root``, or ``root`` itself where it is one."""
    if not root.is_dir():
        raise UserError(f"runs={root}: no such folder; make runs with `spectral-bench train ...`")
    paths = [root] if is_run(root) else sorted(root.iterdir())
    folders = [RunFolder(path) for path in paths if is_run(path)]
    kept = [one for one in folders if sweep is None or one.config.get("sweep") == sweep]
    if not kept:
        which = f" of sweep {sweep!r}" if sweep else ""
        raise UserError(f"runs={root}: no run folder{which} there; name the folder of the runs")
    return kept


if __name__ == "__main__":
    cli.run(main)
