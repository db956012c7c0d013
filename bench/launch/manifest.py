"""What a launch was to do, on disk: so that another shell, later, can look at it and go on.

<runs_dir>/.launches/<name>/
    manifest.json   the runs with their overrides and configs, the tasks they are dealt out in
    jobs.json       the scheduler's job of each task, or the local process
    failed/<id>     one file a run that failed, so that every worker can count them
    logs/           what the jobs print
    code            -> the frozen code that the jobs run
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.files import read_json, write_json
from bench.lock import machine, started
from bench.run_folder import RunFolder

if TYPE_CHECKING:  # what they import takes seconds, and a job's supervisor does without
    from bench.config import RunConfig
    from bench.launch.grid import Job

_FOLDER = ".launches"


@dataclass(frozen=True)
class Launch:
    """One launch, by its folder."""

    path: Path

    @property
    def name(self) -> str:
        """The name under which commands know it."""
        return self.path.name

    @cached_property
    def content(self) -> dict[str, Any]:
        """What manifest.json holds; empty where there is none."""
        return read_json(self.path / "manifest.json") or {}

    @property
    def tasks(self) -> list[list[str]]:
        """Run ids, by task; a task is what one job does."""
        return list(self.content.get("tasks", []))

    @property
    def options(self) -> dict[str, Any]:
        """How it runs: ``pack``, ``fail_fast_after``, and ``words``, the overrides for Hydra."""
        return dict(self.content.get("options", {}))

    def stored(self, run_id: str) -> dict[str, Any]:
        """Return the config of one of its runs as plain values."""
        return dict(self.content["runs"][run_id]["config"])

    def config(self, run_id: str, *, elsewhere: bool = False) -> RunConfig:
        """Return the config of one of its runs; see ``bench.config.typed`` for ``elsewhere``."""
        from bench.config import RunConfig

        return RunConfig.model_validate(self.stored(run_id), context={"elsewhere": elsewhere})

    def folder(self, run_id: str) -> RunFolder:
        """Return the folder of one of its runs."""
        return RunFolder(Path(self.stored(run_id)["runs_dir"]) / run_id)

    def jobs(self) -> list[Job]:
        """Return its runs, as the grid had them."""
        from bench.identity import Identity
        from bench.launch.grid import Job

        jobs = []
        for run_id, entry in self.content.get("runs", {}).items():
            config = self.config(run_id, elsewhere=True)
            jobs.append(Job(tuple(entry["overrides"]), config, Identity(run_id, entry["variant"])))
        return jobs

    # -- the scheduler's jobs -------------------------------------------------------------------

    @property
    def submitted(self) -> dict[str, Any]:
        """What jobs.json holds: ``tasks`` (job of each task), or ``process`` of a local launch."""
        return read_json(self.path / "jobs.json") or {}

    def note_jobs(self, tasks: Mapping[str, str]) -> None:
        """Note the scheduler's job of some tasks, those of earlier calls kept."""
        known = self.submitted.get("tasks", {})
        write_json(self.path / "jobs.json", {"tasks": {**known, **tasks}})

    def note_process(self) -> None:
        """Note that this process carries out the launch, on this machine."""
        process = {"pid": os.getpid(), "started": started(os.getpid()), "machine": machine()}
        write_json(self.path / "jobs.json", {"process": process})

    @property
    def process(self) -> int | None:
        """The process of this machine that is at work on the launch; None: there is none."""
        noted = self.submitted.get("process")
        if not noted or noted["machine"] != machine() or noted["started"] != started(noted["pid"]):
            return None
        return int(noted["pid"])

    # -- failing fast ---------------------------------------------------------------------------

    def note_failure(self, run_id: str) -> None:
        """Count a run as failed."""
        (self.path / "failed").mkdir(exist_ok=True)
        (self.path / "failed" / run_id).touch()

    @property
    def failed(self) -> set[str]:
        """Ids of the runs that have failed in it; it does not carry them out again."""
        return {path.name for path in (self.path / "failed").glob("*")}

    @property
    def given_up(self) -> bool:
        """Whether so many runs have failed that no more are started."""
        limit = self.options.get("fail_fast_after")
        return limit is not None and len(self.failed) >= limit


def create(
    runs_dir: Path, jobs: Sequence[Job], tasks: Sequence[Sequence[str]], options: Mapping[str, Any]
) -> Launch:
    """Write down a new launch."""
    sweep = jobs[0].config.sweep or "grid"
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = runs_dir / _FOLDER / f"{stamp}-{sweep.replace('/', '_')}-{secrets.token_hex(2)}"
    path.mkdir(parents=True)
    runs = {
        job.identity.id: {
            "overrides": list(job.overrides),
            "variant": job.identity.variant,
            "config": job.config.model_dump(mode="json"),
        }
        for job in jobs
    }
    content = {"options": dict(options), "tasks": [list(task) for task in tasks], "runs": runs}
    write_json(path / "manifest.json", content)
    return Launch(path)


def launches(runs_dir: Path) -> Iterator[Launch]:
    """Yield the launches into ``runs_dir``, the newest first."""
    for path in sorted((runs_dir / _FOLDER).glob("*"), reverse=True):
        if (path / "manifest.json").exists():
            yield Launch(path)


def find(runs_dir: Path, name: str | None = None) -> Launch:
    """Return the launch of this name (its beginning is enough), or the newest one.

    Raises:
        UserError: there is none.
    """
    known = list(launches(runs_dir))
    for launch in known:
        if name is None or launch.name.startswith(name):
            return launch
    if known:
        newest = ", ".join(launch.name for launch in known[:5])
        raise UserError(f"launch={name}: there is none in {runs_dir}; the newest are {newest}")
    raise UserError(f"{runs_dir}: no launch here; give runs_dir=, or launch one with -m")
