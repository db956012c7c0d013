"""Runs from run folders: ``<folder>/<run id>/`` with config, status, summary and history."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from analysis.run.frame import STATES, RunRecord, nearest, warn
from bench.files import is_name, read_whole_json
from bench.run_folder import (
    CHECKPOINT,
    CONFIG,
    HISTORY,
    PROVENANCE,
    STATUS,
    SUMMARY,
    RunFolder,
    is_run,
)

_PARTS = (STATUS, SUMMARY, HISTORY, CHECKPOINT)
_READ = (CONFIG, STATUS, SUMMARY, PROVENANCE)


def records(root: Path) -> list[RunRecord]:
    """Return the runs in ``root`` (or ``root`` itself, if it is a run folder), one of each id.

    Other folders, hidden ones and those beginning with "_" are skipped. What cannot be read is
    named by a `RunWarning`.
    """
    return [record for _, record in folders(root)]


def folders(root: Path) -> list[tuple[Path, RunRecord]]:
    """Return the runs that `records` returns, each with its folder."""
    return _unique(_found(root))


def stamps(root: Path) -> list[str]:
    """Return a text for each folder that `records` looks at, another whenever a file it reads is.

    The folder itself counts, too: it changes with its name, and with every file that comes, goes
    or is replaced.
    """
    if is_run(root):
        return [_stamp(str(root))]
    return [_stamp(f"{root}/{name}") for name in _folders(root)]


def history(root: Path, run_id: str) -> list[dict[str, Any]]:
    """Return the rows of one run's history.jsonl; a torn last line is dropped.

    Raises:
        ValueError: no such run, or a line before the last that is not JSON.
    """
    folder = root if is_run(root) and root.name == run_id else root / run_id
    if not folder.is_dir():
        names = [path.name for path in root.iterdir() if is_run(path)]
        raise ValueError(f"{root}: no run {run_id!r}{nearest(run_id, names)}")
    return RunFolder(folder).history()


def _found(root: Path) -> Iterator[tuple[Path, RunRecord]]:
    """Yield (folder, run) for each run folder in ``root``, or for ``root`` itself if it is one."""
    if is_run(root):
        yield root, _read_folder(root)
        return
    for name in _folders(root):
        folder = root / name
        try:
            yield folder, _read_folder(folder)
        except FileNotFoundError:  # without a config: another folder, or a run that lost it
            if any((folder / part).exists() for part in _PARTS):
                warn(f"{folder / CONFIG}: missing; the run is shown as unreadable")
                yield folder, RunRecord(name, "unreadable")


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(e.name for e in entries if e.name[0] not in "._" and e.is_dir())


def _stamp(folder: str) -> str:
    return " ".join([file_stamp(folder), *(file_stamp(f"{folder}/{part}") for part in _READ)])


def file_stamp(path: str) -> str:
    """Return what changes whenever a file does: inode, size and time of its last change."""
    try:
        status = os.stat(path)  # noqa: PTH116  (pathlib takes twice the time, for 50,000 files)
    except OSError:
        return "-"
    return f"{status.st_ino}:{status.st_size}:{status.st_ctime_ns}"


def _read_folder(folder: Path) -> RunRecord:
    """Read config, status and summary of one run folder.

    Raises:
        FileNotFoundError: there is no config.json.
    """
    config: dict[str, Any] | None = None
    run_id = folder.name
    try:
        config = read_whole_json(folder / CONFIG)
        run_id = _own_id(config, folder)
        state = _state(folder)
        # A diverged or failed run may have ended before it had anything to sum up.
        needed = state == "done" or (folder / SUMMARY).exists()
        summary = read_whole_json(folder / SUMMARY) if needed and state != "running" else {}
        return RunRecord(run_id, state, config, summary, _provenance(folder))
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and config is None:
            raise
        reason = error.strerror or "missing" if isinstance(error, OSError) else str(error)
        where = f"{error.filename}: " if isinstance(error, OSError) else ""
        warn(f"{where}{reason}; the run is shown as unreadable")
        return RunRecord(run_id, "unreadable", config or {})


def _own_id(config: dict[str, Any], folder: Path) -> str:
    """Return the id in a config, the folder's name where it has none.

    Raises:
        ValueError: it would lead elsewhere, as the name of a folder.
    """
    own = config.get("id", folder.name)
    if "id" in config and not is_name(own):
        raise ValueError(f"{folder / CONFIG}: {own!r} is no name of a run")
    return str(own)


def _state(folder: Path) -> str:
    """Return the state in status.json; a run killed before it wrote one was running."""
    path = folder / STATUS
    try:
        state = read_whole_json(path).get("state")
    except FileNotFoundError:
        return "running"
    if state not in STATES[:-1]:
        raise ValueError(f"{path}: unknown state {state!r}")
    return str(state)


def _provenance(folder: Path) -> dict[str, Any]:
    """Return the latest attempt's provenance, with when the first began; empty without any."""
    try:
        attempts = read_whole_json(folder / PROVENANCE).get("attempts")
    except FileNotFoundError:
        return {}
    known = [one for one in attempts if isinstance(one, dict)] if isinstance(attempts, list) else []
    if not known:
        return {}
    began = known[0].get("started")
    return {**known[-1], **({"began": began} if known[1:] and began else {})}


def _unique(runs: Iterable[tuple[Path, RunRecord]]) -> list[tuple[Path, RunRecord]]:
    """Return the runs, one of each id: a copied folder must not count as another run."""
    kept: dict[str, tuple[Path, RunRecord]] = {}
    for folder, record in runs:
        if record.id not in kept:
            kept[record.id] = (folder, record)
            continue
        first, second = sorted((kept[record.id][0], folder), key=lambda f: f.name != record.id)
        warn(f"{second}: a second folder of run {record.id}; only {first} counts")
        if first == folder:
            kept[record.id] = (folder, record)
    return list(kept.values())
