"""Where our caches lie, and Parquet files in them: a cache that fails costs time, never a table."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow


def cache_folder() -> Path:
    """Return the folder of our caches: ``$XDG_CACHE_HOME/spectral-bench``, else in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "spectral-bench"


def file_name(readable: str, identity: str) -> str:
    """Return a Parquet file's name that people can read and that no other identity has."""
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", readable).strip("-")[-60:]
    return f"{words}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}.parquet"


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
