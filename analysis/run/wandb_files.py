"""Reader of offline W&B logs (``run-<id>.wandb``), without a server and without sampling.

A log is LevelDB's log format (32 KiB blocks; chunks of crc, length, kind, body; a record is one
chunk or first-middle...-last) around wandb's own protobuf records. A killed run leaves a torn
tail, which is dropped; damage anywhere else is an error. A resumed run has several files of one
run id: `fold` makes one run of them. `wandb leet inspect` is the official reader, for comparison.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_BLOCK = 32 * 1024
_CHUNK = struct.Struct("<IHB")  # crc32 of kind and body, length of the body, kind
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4

Row = dict[str, Any]


class WandbFileError(ValueError):
    """A file that is not a W&B log, or a log damaged elsewhere than at its torn tail."""


@dataclass
class WandbRun:
    """One run as its offline log has it; ``exit_code`` is None for a run that did not end.

    ``config`` and ``summary`` hold what the program set, without the keys that wandb adds
    (those beginning with ``_``); ``history`` holds every row, in order, each with its "_step".
    """

    id: str
    project: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: Row = field(default_factory=dict)
    summary: Row = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)
    exit_code: int | None = None
    started: float = 0.0  # seconds since the epoch; 0 where the log ends before it says so
    stamp: str = ""  # "YYYYmmdd_HHMMSS" in the name of wandb's folder, known for every log


def find_files(folder: Path) -> list[Path]:
    """Return the offline logs under ``folder``, sorted; links (``latest-run``) are not followed."""
    return sorted(
        Path(base, name)
        for base, _, names in os.walk(folder)
        for name in names
        if name.startswith("run-") and name.endswith(".wandb")
    )


def run_id(path: Path) -> str:
    """Return the run id that a log's name states: ``run-<id>.wandb``."""
    return path.name.removeprefix("run-").removesuffix(".wandb")


def read_file(path: Path, *, history: bool = True) -> WandbRun:
    """Read one offline log.

    Args:
        path: the ``run-<id>.wandb`` file, of a finished, a running or a killed run.
        history: whether to read the history rows (the bulk of a log).

    Raises:
        WandbFileError: not a W&B log, or damaged before its end; the message names the file.
        OSError: the file cannot be read.
    """
    # Imported when needed (wandb takes a second) and by name (the modules have no types).
    protobuf = import_module("google.protobuf.message")
    messages = import_module("wandb.proto.wandb_internal_pb2")

    stamp = re.search(r"\d{8}_\d{6}", path.parent.name)
    run = WandbRun(id=run_id(path), stamp=stamp[0] if stamp else "")
    for body in _bodies(path.read_bytes(), path):
        try:
            _apply(run, messages.Record.FromString(body), history)
        except (protobuf.DecodeError, ValueError) as error:
            raise WandbFileError(f"{path}: not a record of a W&B log ({error})") from error
    for tree in (run.config, run.summary):
        for key in [key for key in tree if key.startswith("_")]:
            del tree[key]
    return run


def fold(attempts: Sequence[WandbRun]) -> WandbRun:
    """Make one run of the attempts (files) of one run id.

    Config, tags and the like come from the latest attempt that got as far as writing them,
    summary and exit code from the latest attempt whatever it holds: an attempt that was killed
    makes the run an unfinished one. History is merged by step, the later attempt's row winning.
    """
    ordered = sorted(attempts, key=lambda attempt: (attempt.stamp, attempt.started))
    latest = ordered[-1]
    described = next((attempt for attempt in reversed(ordered) if attempt.started), latest)
    rows: dict[int, Row] = {}
    for attempt in ordered:
        rows.update({row["_step"]: row for row in attempt.history})
    return WandbRun(
        id=latest.id,
        project=described.project,
        group=described.group,
        job_type=described.job_type,
        tags=described.tags,
        config=described.config,
        summary=latest.summary,
        history=[rows[step] for step in sorted(rows)],
        exit_code=latest.exit_code,
        started=described.started,
        stamp=latest.stamp,
    )


def _bodies(data: bytes, path: Path) -> Iterator[bytes]:
    """Yield the whole records of a log; stop at a torn tail, raise at other damage."""
    if not HEADER.startswith(data[: len(HEADER)]):
        raise WandbFileError(f"{path}: not a W&B log (it begins with {data[:7]!r})")
    position, parts = len(HEADER), list[bytes]()
    while True:
        left = _BLOCK - position % _BLOCK
        if left < _CHUNK.size:  # too short for a chunk: padding
            position += left
            continue
        if position + _CHUNK.size > len(data):
            return
        checksum, length, kind = _CHUNK.unpack_from(data, position)
        end = position + _CHUNK.size + length
        body = data[position + _CHUNK.size : end]
        if kind == 0 and not any(data[position:]):
            return  # a crashed machine can leave zeros for data that it never wrote
        if end > len(data) or zlib.crc32(body, zlib.crc32(bytes([kind]))) != checksum:
            if end >= len(data) and length <= left - _CHUNK.size:
                return
            raise WandbFileError(f"{path}: damaged at byte {position} (wrong checksum)")
        position = end
        if kind not in ((_MIDDLE, _LAST) if parts else (_FULL, _FIRST)):
            raise WandbFileError(f"{path}: damaged before byte {position} (a record has a hole)")
        parts.append(body)
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []


def _apply(run: WandbRun, record: Any, history: bool) -> None:
    """Add one record of the log to ``run``; records of other kinds are left out."""
    kind = record.WhichOneof("record_type")
    if kind == "run":
        header = record.run
        run.id, run.project, run.group = header.run_id or run.id, header.project, header.run_group
        run.tags, run.job_type = list(header.tags), header.job_type
        run.started = header.start_time.seconds + header.start_time.nanos * 1e-9
        _update(run.config, header.config)
    elif kind == "config":
        _update(run.config, record.config)
    elif kind == "summary":
        _update(run.summary, record.summary)
    elif kind == "exit":
        run.exit_code = record.exit.exit_code
    elif kind == "history" and history:
        row: Row = {}
        _put(row, record.history.item)
        row["_step"] = int(row.get("_step", record.history.step.num))
        run.history.append(row)


def _update(tree: Row, change: Any) -> None:
    """Apply a config or summary record: its removals and its new values."""
    for item in change.remove:
        *above, last = item.nested_key or [item.key]
        branch: Any = tree
        for key in above:
            branch = branch.get(key, {})
        branch.pop(last, None)
    _put(tree, change.update)


def _put(tree: Row, items: Iterable[Any]) -> None:
    for item in items:
        *above, last = item.nested_key or [item.key]
        branch = tree
        for key in above:
            branch = branch.setdefault(key, {})
        branch[last] = json.loads(item.value_json)
