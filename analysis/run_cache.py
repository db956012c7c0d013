"""What a W&B server told of a project's runs, kept in one Parquet file beside other caches.

Keyed by run id, with a stamp that changes when the run does. It holds configs and summaries as the
server told them, and no credentials; delete it at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COLUMNS = ("id", "stamp", "config", "summary")


@dataclass(frozen=True)
class Told:
    """One run as the server told it; ``stamp`` tells one telling from a later one."""

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
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", project)
        digest = hashlib.sha256(f"{address} {project}".encode()).hexdigest()[:10]
        self.path = (folder or cache_folder()) / "wandb" / f"{readable}-{digest}.parquet"

    def read(self) -> dict[str, Told]:
        """Return the runs by id; none where there is no cache, or one that cannot be read."""
        import pyarrow
        import pyarrow.parquet

        try:
            columns = pyarrow.parquet.read_table(self.path, columns=list(_COLUMNS)).to_pydict()
        except (OSError, pyarrow.ArrowException, KeyError):
            return {}
        rows = zip(*(columns[name] for name in _COLUMNS), strict=True)
        return {
            run_id: Told(run_id, stamp, json.loads(config), json.loads(summary))
            for run_id, stamp, config, summary in rows
        }

    def write(self, runs: Mapping[str, Told]) -> None:
        """Replace the cache; a full disk or a read-only home costs the cache, not the table."""
        import pyarrow
        import pyarrow.parquet

        ordered = [runs[name] for name in sorted(runs)]
        table = pyarrow.table(
            {
                "id": [told.id for told in ordered],
                "stamp": [told.stamp for told in ordered],
                "config": [json.dumps(told.config) for told in ordered],
                "summary": [json.dumps(told.summary) for told in ordered],
            }
        )
        fresh = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(table, fresh)
            fresh.replace(self.path)
        except OSError:
            with suppress(OSError):
                fresh.unlink()


def cache_folder() -> Path:
    """Return the folder of our caches: ``$XDG_CACHE_HOME/spectral-bench``, else in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "spectral-bench"
