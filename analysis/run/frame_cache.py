"""Finished frames of many runs, kept as Parquet: a table need not parse 10,000 runs each time.

A frame is used again only while nothing that it was made of has changed: neither one of the runs
(each source says what tells one state of its files from a later one) nor the code that reads them.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.run import cache_files
from analysis.run.sources import FORMER
from bench import aliases

if TYPE_CHECKING:
    import pyarrow

FEWEST = 500  # fewer runs are parsed in a moment
_READERS = ("frame_cache", "folders", "frame", "sources", "wandb_files", "wandb_runs")


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
    path = cache_files.cache_folder() / "frames" / cache_files.file_name(source, source)
    key = hashlib.sha256("\n".join([_code(), *stamps]).encode()).hexdigest()
    table = cache_files.read(path)
    if table is not None and (frame := _unpacked(table, key)) is not None:
        return frame
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = make()
    for warning in caught:
        warnings.warn(warning.message, stacklevel=2)
    if not caught and (packed := _packed(frame, key)) is not None:
        cache_files.write(path, packed)
    return frame


@cache
def _code() -> str:
    """Return what changes whenever the code that makes a frame does."""
    folder = Path(__file__).parent
    files = [*(folder / f"{name}.py" for name in _READERS), FORMER, Path(aliases.__file__)]
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
    said = {"key": key, "kinds": json.dumps(kinds)}
    return pyarrow.table(columns).replace_schema_metadata(said)


def _unpacked(table: pyarrow.Table, key: str) -> pd.DataFrame | None:
    """Return the frame that `_packed` was given; None where it was made of something else."""
    said = table.schema.metadata or {}
    if said.get(b"key") != key.encode():
        return None
    kinds: dict[str, str] = json.loads(said[b"kinds"])
    return pd.DataFrame({name: _series(table[name], kind) for name, kind in kinds.items()})


def _series(column: Any, kind: str) -> pd.Series[Any]:
    if kind == "json":
        return pd.Series([json.loads(value) for value in column.to_pylist()], dtype="object")
    if kind == "text":
        return pd.Series(column.to_numpy(), dtype="object")
    if kind == "Int64":
        return pd.Series(column.to_pylist(), dtype="Int64")
    return pd.Series(column.to_numpy(), dtype=kind)
