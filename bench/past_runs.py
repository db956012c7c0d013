"""Runs of earlier launches: those in run folders, and those in archives of them.

Only what plans and registrations need is read; tables read runs by `analysis`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.files import read_json
from bench.run_folder import CONFIG, PROVENANCE, STATUS, SUMMARY
from bench.tuning.settings import FIRST_TUNING_SEED

# An archive has a file of a run folder as a column of its name (analysis.run.archive).
_FILES = (CONFIG, STATUS, SUMMARY, PROVENANCE)


@dataclass(frozen=True)
class PastRun:
    """One run: what it wrote, each empty where it wrote none."""

    id: str
    config: Mapping[str, Any]
    status: Mapping[str, Any]
    summary: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether it has its result; a diverged run is a result too."""
        return self.status.get("state") in ("done", "diverged")

    @property
    def started(self) -> str | None:
        """When its first attempt began, as ISO 8601; None where it is not recorded."""
        attempts = self.provenance.get("attempts") or [{}]
        started = attempts[0].get("started")
        return None if started is None else str(started)

    def reports(self, study: str) -> bool:
        """Whether it is a report run of a study."""
        seed = self.config.get("seed", FIRST_TUNING_SEED)
        return self.config.get("sweep") == study and seed < FIRST_TUNING_SEED


def past_runs(runs_dir: Path, archives: Path = Path("results")) -> Iterator[PastRun]:
    """Yield each run in ``runs_dir`` and in the archives anywhere below ``archives`` once."""
    seen: set[str] = set()
    for path in sorted(runs_dir.glob(f"[!._]*/{CONFIG}")):
        seen.add(path.parent.name)
        yield PastRun(path.parent.name, *(read_json(path.parent / name) or {} for name in _FILES))
    for archive in sorted(archives.rglob("*.parquet")):
        for run in _archived(archive):
            if run.id not in seen:
                seen.add(run.id)
                yield run


def _archived(path: Path) -> Iterator[PastRun]:
    """Yield the runs of an archive; none of another Parquet file, or of one that is damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            if not {"id", CONFIG} <= names:
                return
            table = file.read(["id", *names.intersection(_FILES)], use_threads=False)
    except (OSError, pyarrow.ArrowException):
        return
    for row in table.to_pylist():
        yield PastRun(row["id"], *(json.loads(row.get(name) or "{}") for name in _FILES))
