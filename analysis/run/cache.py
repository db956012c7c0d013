"""Caches of runs, Parquet files that may be deleted at any time: one that fails costs time alone.

`RunCache` keeps what a W&B server answered about a project: configs and summaries by run id, with a
stamp that changes when the run does, and no credentials. `kept` keeps finished frames, so that a
table need not parse 10,000 runs each time; a frame is used again only while neither a run (each
source has a stamp for the state of its files) nor the code that reads them has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.run.sources import FORMER
from bench import public_names

if TYPE_CHECKING:
    import pyarrow


def cache_folder() -> Path:
    """Return the folder of our caches: ``$XDG_CACHE_HOME/spectral-bench``, else in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "spectral-bench"


def file_name(readable: str, identity: str) -> str:
    """Return a Parquet file's name that people can read and that no other identity has."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", readable).strip("-")[-60:]
    return f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}.parquet"


def read(path: Path, columns: Sequence[str] | None = None) -> pyarrow.Table | None:
    """Return a cached table, or some of its columns; None where it cannot be read."""
    import pyarrow
    import pyarrow.parquet

    asked = None if columns is None else list(columns)
    try:
        # Threads would cost more than they save; ParquetFile spares the import of datasets.
        with pyarrow.parquet.ParquetFile(path) as file:
            return file.read(asked, use_threads=False)
    except (OSError, pyarrow.ArrowException):
        return None


def write(path: Path, table: pyarrow.Table) -> None:
    """Replace a cached table; on a full disk or in a read-only home nothing happens."""
    import pyarrow.parquet

    fresh = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, fresh)
        fresh.replace(path)
    except OSError:
        with suppress(OSError):
            fresh.unlink()


_COLUMNS = ("id", "stamp", "config", "summary")


@dataclass(frozen=True)
class ServerRun:
    """One run as the server answered; ``stamp`` changes whenever the run does."""

    id: str
    stamp: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]


class RunCache:
    """The cache of one project of one server.

    Args:
        project: ``<entity>/<project>``.
        folder: where caches lie; default ``$XDG_CACHE_HOME/spectral-bench``.
    """

    def __init__(self, project: str, folder: Path | None = None) -> None:
        address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")
        name = file_name(project, f"{address} {project}")
        self.path = (folder or cache_folder()) / "wandb" / name

    def stamps(self) -> dict[str, str]:
        """Return each run's stamp by id, without parsing the runs; none where there is no cache."""
        columns = self._columns("id", "stamp")
        return dict(zip(columns[0], columns[1], strict=True)) if columns else {}

    def read(self) -> dict[str, ServerRun]:
        """Return the runs by id; none where there is no cache, or one that cannot be read."""
        return {
            run_id: ServerRun(run_id, stamp, json.loads(config), json.loads(summary))
            for run_id, stamp, config, summary in zip(*self._columns(*_COLUMNS), strict=True)
        }

    def write(self, runs: Mapping[str, ServerRun]) -> None:
        """Replace the cache; a full disk or a read-only home costs the cache, not the table."""
        import pyarrow

        ordered = [runs[name] for name in sorted(runs)]
        table = pyarrow.table(
            {
                "id": [run.id for run in ordered],
                "stamp": [run.stamp for run in ordered],
                "config": [json.dumps(run.config) for run in ordered],
                "summary": [json.dumps(run.summary) for run in ordered],
            }
        )
        write(self.path, table)

    def _columns(self, *names: str) -> list[list[str]]:
        """Return these columns of the file; nothing where one of them is missing."""
        table = read(self.path, names)
        if table is None or table.column_names != list(names):
            return []
        return [column.to_pylist() for column in table.columns]


FEWEST = 500  # fewer runs are parsed in a moment


def kept(source: str, stamps: Sequence[str], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return what ``make`` returns, from the cache where it was made of the same before.

    A frame in whose making something was warned of is not kept, so that the warning comes again;
    nor is one of fewer than `FEWEST` stamps.

    Args:
        source: what names the runs and their choice: each has one frame in the cache.
        stamps: one text a run (or file) that changes whenever it does.
        make: reads the runs into a frame of `analysis.run.frame.frame`.
    """
    if len(stamps) < FEWEST:
        return make()
    path = cache_folder() / "frames" / file_name(source, source)
    key = hashlib.sha256("\n".join([_code(), *stamps]).encode()).hexdigest()
    table = read(path)
    if table is not None and (frame := _unpacked(table, key)) is not None:
        return frame
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = make()
    for warning in caught:
        warnings.warn(warning.message, stacklevel=2)
    if not caught and (packed := _packed(frame, key)) is not None:
        write(path, packed)
    return frame


@cache
def _code() -> str:
    """Return what changes whenever the code that makes a frame does."""
    readers = sorted(Path(__file__).parent.glob("*.py"))
    files = [*readers, FORMER, Path(public_names.__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _packed(frame: pd.DataFrame, key: str) -> pyarrow.Table | None:
    """Return the frame as a table: mixed columns as JSON text; None where a text has no UTF-8."""
    import pyarrow

    columns, kinds = {}, {}
    for name in map(str, frame):
        series, kind = frame[name], str(frame[name].dtype)
        try:
            if kind != "object":
                values = series.to_numpy() if kind in ("float64", "bool") else series.array
                columns[name], kinds[name] = pyarrow.array(values), kind
                continue
            texts = series.tolist()
            plain = {type(value) for value in texts} <= {str, type(None)}
            texts = texts if plain else [json.dumps(value) for value in texts]
            columns[name] = pyarrow.array(texts, pyarrow.string())
            kinds[name] = "text" if plain else "json"
        except UnicodeError:  # half of a surrogate pair, which JSON can hold
            return None
    metadata = {"key": key, "kinds": json.dumps(kinds)}
    return pyarrow.table(columns).replace_schema_metadata(metadata)


def _unpacked(table: pyarrow.Table, key: str) -> pd.DataFrame | None:
    """Return the frame that `_packed` was given; None where it was made of something else."""
    metadata = table.schema.metadata or {}
    if metadata.get(b"key") != key.encode():
        return None
    kinds: dict[str, str] = json.loads(metadata[b"kinds"])
    return pd.DataFrame({name: _series(table[name], kind) for name, kind in kinds.items()})


def _series(column: Any, kind: str) -> pd.Series[Any]:
    if kind == "json":
        return pd.Series([json.loads(value) for value in column.to_pylist()], dtype="object")
    if kind == "text":
        return pd.Series(column.to_numpy(), dtype="object")
    if kind == "Int64":
        return pd.Series(column.to_pylist(), dtype="Int64")
    return pd.Series(column.to_numpy(), dtype=kind)
