"""Load runs, whatever holds them: run folders, archives, offline W&B files, or a W&B server.

    load_runs("runs")                        the run folders in runs/
    load_runs("results/a.parquet")           an archive (see `analysis.run.archive`); also "a,b"
    load_runs("results")                     every archive in results/
    load_runs("offline:runs")                the .wandb files anywhere under runs/
    load_runs("wandb:<entity>/<project>")    a project on the W&B server

The same runs give the same DataFrame from each (see `analysis.run.frame.frame`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.run import archive, cache, folders, wandb_server
from analysis.run import wandb_server as wandb_runs
from analysis.run.cache import RunCache
from analysis.run.frame import Filters, RunRecord, RunWarning, canonical, column, frame

__all__ = ["RunWarning", "load_history", "load_runs"]

_OFFLINE, _SERVER = "offline:", "wandb:"
_OF_CHARTS = ("_", "seen/")  # columns that a run's rows have on W&B only
# A name for the place, a text a run that changes with it, and a reader of all runs there.
Found = tuple[str, list[str], Callable[[], Iterable[RunRecord]]]


def load_runs(
    source: str | Path,
    *,
    sweep: str | None = None,
    tags: Sequence[str] = (),
    states: Sequence[str] = (),
    refresh: bool = True,
) -> pd.DataFrame:
    """Return one row a run: identity, state, ``config.<dotted key>`` and summary columns.

    A run whose files cannot be read gives a `RunWarning` and a row of state "unreadable"; a run
    without a final state is "running", also if its process was killed. The frame of many runs is
    kept (see `analysis.run.cache`), and used again while none of them has changed.

    Args:
        source: a folder of run folders, archives, "offline:<folder>" or "wandb:<entity>/<project>".
        sweep: only the runs of this sweep, W&B's group; a server is asked for no others.
        tags: only runs with one of these tags (``tracker.tags``); likewise.
        states: only runs in one of these states (`analysis.run.frame.STATES`); likewise.
        refresh: whether a server is asked for changes; else its cache alone is read.

    Raises:
        ValueError: there is no such folder, or the server cannot be asked; one line.
    """
    filters = Filters(sweep, tuple(tags), tuple(states))
    place, stamps, records = _found(str(source), filters, refresh)
    return cache.kept(
        f"{place} {filters}",
        stamps,
        lambda: frame(record for record in records() if filters.fits(record)),
    )


def _found(text: str, filters: Filters, refresh: bool) -> Found:
    """Return where runs are, what changes with them, and how to read them."""
    if text.startswith(_SERVER):
        project = text.removeprefix(_SERVER)
        chosen = wandb_server.runs(project, filters, fresh=refresh)
        stamps = [f"{name} {stamp}" for name, stamp in sorted(chosen.stamps.items())]
        place = str(RunCache(project).path)
        return place, stamps, lambda: wandb_runs.server_records(chosen.read())
    if text.startswith(_OFFLINE):
        folder = _folder(text.removeprefix(_OFFLINE))
        stamps = wandb_runs.offline_stamps(folder)
        return f"{_OFFLINE}{folder.resolve()}", stamps, lambda: wandb_runs.offline_records(folder)
    folder = _folder(text)
    unpacked = folder != Path(text)  # an archive, in a folder that is new each time
    stamps = [] if unpacked else folders.stamps(folder)
    return str(folder.resolve()), stamps, lambda: folders.records(folder)


def load_history(source: str | Path, run_id: str) -> pd.DataFrame:
    """Return every logged row of one run: step (int64), then epoch, then its metrics by name.

    Metrics are float64 and NaN where a row lacks them. Rows of one step are merged; of several
    attempts at one step the latest wins. Sorted by step.

    Args:
        source: a folder of run folders, archives, "offline:<folder>" or "wandb:<entity>/<project>".
        run_id: the run's id.

    Raises:
        ValueError: no such run, a damaged history, or a server that cannot be asked.
    """
    text = str(source)
    if text.startswith(_SERVER):
        return _history_frame(wandb_server.history(text.removeprefix(_SERVER), run_id))
    if text.startswith(_OFFLINE):
        folder = _folder(text.removeprefix(_OFFLINE))
        return _history_frame(wandb_runs.offline_history(folder, run_id))
    return _history_frame(folders.history(_folder(text), run_id))


def _folder(text: str) -> Path:
    folder = Path(archive.local(text))
    if folder.is_file():
        raise ValueError(f"{text}: no archive of runs; spectral-bench archive makes one")
    if not folder.is_dir():
        raise ValueError(
            f"{text}: no such folder of runs; make runs with `spectral-bench train ...`"
        )
    return folder


def _history_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    steps: dict[int, dict[str, Any]] = {}
    for row in rows:
        step = int(row["step"] if "step" in row else row["_step"])
        own = {n: canonical(v) for n, v in row.items() if not n.startswith(_OF_CHARTS)}
        steps.setdefault(step, {}).update(own)
    ordered = [steps[step] for step in sorted(steps)]
    names = {name for row in ordered for name, value in row.items() if value is not None}
    columns = {"step": pd.Series(sorted(steps), dtype="int64")}
    for name in ("epoch", *sorted(names - {"step", "epoch"})):
        columns[name] = column([row.get(name) for row in ordered])
    return pd.DataFrame(columns)
