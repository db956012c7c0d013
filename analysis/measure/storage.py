"""Parquet tables that carry what made them, written so that a reader never sees half a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

_KEY = b"spectral-bench"


def write_table(frame: pd.DataFrame, path: Path, metadata: dict[str, Any]) -> None:
    """Write ``frame`` to ``path`` atomically, with ``metadata`` (JSON) in the Parquet schema."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    stored = {**(table.schema.metadata or {}), _KEY: json.dumps(metadata).encode()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table.replace_schema_metadata(stored), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_table(path: Path) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """Return a table and its metadata; None where there is no file, or none of ours, to read."""
    try:
        table = pq.read_table(path)
        return table.to_pandas(), json.loads(table.schema.metadata[_KEY])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
