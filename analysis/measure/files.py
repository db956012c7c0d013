"""The two tables of a run folder: what was measured at each epoch, kept together.

``curvature.parquet`` has one row a layer, direction and epoch; ``exponents.parquet`` one a layer
and epoch; docs/curvature.md lists their columns. Each file says, for every step in it, with which
options it was measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.measure.network import Measurement
from analysis.run import measured

FORMAT = 2  # of the two files; a file of another number is replaced
NAMES = ("curvature", "exponents")  # the exponents last: where they are new, the curvature is too


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
    measured.write_table(table, path, {"format": FORMAT, "steps": steps})


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
    read = measured.read_table(path)
    if read is None or read[1].get("format") != FORMAT:
        return pd.DataFrame(), {}
    return read[0], read[1]["steps"]
