"""One Parquet file that holds many run folders, small enough to be committed.

A row is a run: its id, then each file of its folder as a column under the file's own name, JSON as
text and measured tables (Parquet) as bytes. Checkpoints, logs and locks stay behind, and so do the
process id and the name of the machine in status.json, and where on it the run had its folders. The
same runs give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from analysis.run import folders
from bench.files import is_name, write_atomically
from bench.run_folder import CONFIG, STATUS, is_run

Files = dict[str, bytes]  # of one run folder, by name

_KEY, _MARK = b"spectral-bench", {"kind": "runs", "format": 1}
_TEXT, _BYTES = (".json", ".jsonl"), ".parquet"
_OF_PROCESS = ("pid", "host")
_PLACES = {"runs_dir": 1, "data_dir": 1, "exponents": 2}  # how much of an absolute path is kept
_ELSEWHERE = ("wandb:", "offline:")


def gather(root: Path) -> dict[str, Files]:
    """Return the files of the runs in ``root`` by run id; ``root`` may be a run folder itself.

    What cannot be read is left out, with a `analysis.run.frame.RunWarning`.

    Raises:
        ValueError: a file that is no UTF-8.
    """
    return {
        record.id: _files(folder)
        for folder, record in folders.folders(root)
        if record.state != "unreadable"
    }


def _files(folder: Path) -> Files:
    files: Files = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix not in (*_TEXT, _BYTES):
            continue
        files[path.name] = path.read_bytes()
        if path.suffix in _TEXT:
            try:
                files[path.name].decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}: not UTF-8; remove it or train the run again") from error
    if STATUS in files:
        status = json.loads(files[STATUS])
        kept = {key: value for key, value in status.items() if key not in _OF_PROCESS}
        files[STATUS] = (json.dumps(kept, indent=1) + "\n").encode()
    if CONFIG in files:
        files[CONFIG] = _without_places(files[CONFIG])
    return files


def _without_places(text: bytes) -> bytes:
    """Return a config whose paths are the same on every machine; as it is where they are."""
    config = json.loads(text)
    short = _shortened(config)
    return text if short == config else (json.dumps(short, indent=2) + "\n").encode()


def _shortened(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with its absolute places cut, also those that an optimizer has."""
    short = dict(config)
    for name, value in config.items():
        if isinstance(value, dict):
            short[name] = _shortened(value)
        elif name in _PLACES and isinstance(value, str) and Path(value).is_absolute():
            short[name] = "/".join(Path(value).parts[-_PLACES[name] :])
    return short


def state(files: Files) -> str:
    """Return a run's state; one killed before it wrote any was running."""
    return str(json.loads(files.get(STATUS, b"{}")).get("state", "running"))


def sweep(files: Files) -> str | None:
    """Return the name of the sweep that a run is of."""
    name = json.loads(files[CONFIG]).get("sweep")
    return None if name is None else str(name)


def finished(files: Files) -> bool:
    """Return whether a run has its result; a diverged run is a result too."""
    return state(files) in ("done", "diverged")


def differing(old: Files, new: Files) -> str | None:
    """Return the file by which ``old`` and ``new`` are two results of one run, None if they agree.

    An unfinished run is no result. Its status may say more later (who tracks it), and tables of
    curvature may be measured later.
    """
    if not (finished(old) and finished(new)):
        return None
    shared = sorted(name for name in old.keys() & new.keys() if name.endswith(_TEXT))
    return next((n for n in shared if n != STATUS and old[n] != new[n]), None)


def merged(old: Mapping[str, Files], new: Mapping[str, Files]) -> dict[str, Files]:
    """Return the runs of both; where both have one, the finished one, and ``new``'s newer files."""
    whole = dict(old)
    for run_id, files in new.items():
        before = whole.get(run_id)
        if before is None or not finished(before):
            whole[run_id] = files
        elif finished(files):
            whole[run_id] = files if differing(before, files) else {**before, **files}
    return whole


def conflicts(old: Mapping[str, Files], new: Mapping[str, Files]) -> dict[str, str]:
    """Return the runs of which both have a result, and not the same: the file that tells, by id."""
    changed = {run_id: differing(old[run_id], new[run_id]) for run_id in old.keys() & new.keys()}
    return {run_id: name for run_id, name in sorted(changed.items()) if name is not None}


def write(path: Path, runs: Mapping[str, Files]) -> None:
    """Write an archive, atomically.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = sorted(runs)
    columns: dict[str, pa.Array] = {"id": pa.array(ids, pa.string())}
    for name in sorted({name for files in runs.values() for name in files}):
        cells = [runs[run_id].get(name) for run_id in ids]
        text = name.endswith(_TEXT)
        columns[name] = pa.array(cells, pa.binary()).cast(pa.string() if text else pa.binary())
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(_MARK)})
    write_atomically(
        path,
        lambda stream: pq.write_table(table, stream, compression="zstd", compression_level=19),
    )


def read(path: Path) -> dict[str, Files]:
    """Return the runs of an archive by id.

    Raises:
        ValueError: not an archive of ours, or a damaged one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not is_archive(path):
        raise ValueError(
            f"{path}: no archive of runs; spectral-bench archive source=runs out=... makes one"
        )
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: damaged ({str(error).splitlines()[0]}); restore it") from error
    names = [name for name in table.column_names if name != "id"]
    for name in (*names, *table["id"].to_pylist()):
        if not is_name(name):  # it would be written elsewhere
            raise ValueError(f"{path}: {name!r} is no name of a file; restore the archive")
    columns = {name: table[name].cast("binary").to_pylist() for name in names}
    return {
        run_id: {name: columns[name][i] for name in names if columns[name][i] is not None}
        for i, run_id in enumerate(table["id"].to_pylist())
    }


def is_archive(path: Path) -> bool:
    """Return whether ``path`` is an archive of runs; other Parquet files are none."""
    if path.suffix != _BYTES or not path.is_file():
        return False
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
        return bool(json.loads(metadata[_KEY]) == _MARK)
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return False


def archives(source: str) -> list[Path]:
    """Return the archives that ``source`` names: one, ``a,b``, or a folder that holds archives."""
    if source.startswith(_ELSEWHERE):
        return []
    path = Path(source).expanduser()
    if path.is_dir() and not is_run(path):
        return sorted(file for file in path.glob(f"*{_BYTES}") if is_archive(file))
    if is_archive(path):
        return [path]
    parts = source.split(",")
    inner = [archive for part in parts for archive in archives(part)] if len(parts) > 1 else []
    if inner and not all(map(archives, parts)):
        raise ValueError(f"{source}: several sources must all be archives of runs")
    return inner


def read_all(paths: Iterable[Path]) -> dict[str, Files]:
    """Return the runs of several archives.

    Raises:
        ValueError: as `read`, or two of them have different results of one run.
    """
    whole: dict[str, Files] = {}
    for path in paths:
        runs = read(path)
        for run_id, name in conflicts(whole, runs).items():
            raise ValueError(f"{path}: another result of {run_id} is in an archive before ({name})")
        whole = merged(whole, runs)
    return whole


def local(source: str | Path) -> str:
    """Return ``source``, or for archives a folder with their run folders, until the process ends.

    Raises:
        ValueError: as `read_all`.
    """
    there = archives(str(source))
    if not there:
        return str(source)
    stamps = tuple((str(path), path.stat().st_mtime_ns) for path in there)
    return _unpacked(stamps).name


@cache
def _unpacked(stamps: tuple[tuple[str, int], ...]) -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="spectral-bench-")
    for run_id, files in read_all(Path(path) for path, _ in stamps).items():
        write_folder(Path(folder.name) / run_id, files)
    return folder


def write_folder(folder: Path, files: Files) -> None:
    """Make a run folder; half of one never has its final name.

    Raises:
        OSError: it cannot be made, or there is one.
    """
    fresh = folder.with_name(f".{folder.name}.new")
    fresh.mkdir(parents=True)
    for name, content in files.items():
        (fresh / name).write_bytes(content)
    fresh.rename(folder)
