"""What a W&B server told of a project's runs, kept in one Parquet file beside other caches.

Keyed by run id, with a stamp that changes when the run does. It holds configs and summaries as the
server told them, and no credentials; delete it at any time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.run import cache_files

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
        name = cache_files.file_name(project, f"{address} {project}")
        self.path = (folder or cache_files.cache_folder()) / "wandb" / name

    def stamps(self) -> dict[str, str]:
        """Return each run's stamp by id, without parsing the runs; none where there is no cache."""
        columns = self._columns("id", "stamp")
        return dict(zip(columns[0], columns[1], strict=True)) if columns else {}

    def read(self) -> dict[str, Told]:
        """Return the runs by id; none where there is no cache, or one that cannot be read."""
        return {
            run_id: Told(run_id, stamp, json.loads(config), json.loads(summary))
            for run_id, stamp, config, summary in zip(*self._columns(*_COLUMNS), strict=True)
        }

    def write(self, runs: Mapping[str, Told]) -> None:
        """Replace the cache; a full disk or a read-only home costs the cache, not the table."""
        import pyarrow

        ordered = [runs[name] for name in sorted(runs)]
        table = pyarrow.table(
            {
                "id": [told.id for told in ordered],
                "stamp": [told.stamp for told in ordered],
                "config": [json.dumps(told.config) for told in ordered],
                "summary": [json.dumps(told.summary) for told in ordered],
            }
        )
        cache_files.write(self.path, table)

    def _columns(self, *names: str) -> list[list[str]]:
        """Return these columns of the file; nothing where one of them is missing."""
        table = cache_files.read(self.path, names)
        if table is None or table.column_names != list(names):
            return []
        return [column.to_pylist() for column in table.columns]
