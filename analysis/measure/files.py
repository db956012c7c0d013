"""Tables of measurements as files, and the two of a run folder: what was measured at each epoch.

``curvature.parquet`` has one row a layer, direction and epoch; ``exponents.parquet`` one a layer
and epoch; docs/curvature.md lists their columns. Each file says, for every step in it, with which
options it was measured.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:  # who reads tables needs no torch
    from analysis.measure.network import Measurement

FORMAT = 2  # of the two files; a file of another number is replaced
_KEY = b"spectral-bench"
NAMES = ("curvature", "exponents")  # the exponents last: where they are new, the curvature is too


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


def add(folder: Path, found: Measurement, options: dict[str, Any]) -> None:
    """Add one measurement to the tables in ``folder``, in place of one of the same step.

    Args:
        folder: the run folder.
        found: what was measured, of one step.
        options: how it was measured, JSON-able.

    Raises:
        OSError: the files cannot be written; each is then whole, the old one or the new.
    """
    for name, frame in zip(NAMES, found, strict=True):
        add_table(folder / f"{name}.parquet", frame, options)


def add_table(path: Path, frame: pd.DataFrame, options: dict[str, Any]) -> None:
    """Add the rows of one step to the table in ``path``, in place of those of the same step."""
    step = int(frame["step"].iloc[0])
    others, steps = _read(path)
    kept = others[others["step"] != step] if len(others) else others
    table = frame if kept.empty else pd.concat([kept, frame], ignore_index=True)
    table = table.sort_values("step", kind="stable", ignore_index=True)
    steps = {**steps, str(step): options}
    write_table(table, path, {"format": FORMAT, "steps": steps})


def stored(
    folder: Path, step: int, options: dict[str, Any], names: tuple[str, ...] = NAMES
) -> list[pd.DataFrame] | None:
    """Return the rows of ``step`` if every file has it, measured with these options.

    Args:
        folder: the run folder.
        step: the training step of the weights.
        options: how they are to have been measured.
        names: of the files, without their suffix.
    """
    tables = [_read(folder / f"{name}.parquet") for name in names]
    if any(steps.get(str(step)) != options for _, steps in tables):
        return None
    return [table[table["step"] == step].reset_index(drop=True) for table, _ in tables]


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the table and the options by step; nothing where there is none of this format."""
    read = read_table(path)
    if read is None or read[1].get("format") != FORMAT:
        return pd.DataFrame(), {}
    return read[0], read[1]["steps"]
