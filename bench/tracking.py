"""Trackers: where else a run is kept, always after the run folder.

A tracker gets the whole history each time and sends what it does not have yet. Nothing that goes
wrong in it may touch the run: ``Guarded`` makes its failures into one warning.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from bench.hydra_private import instantiate
from bench.run_folder import EXPONENTS, Row
from bench.setup import Setup

Axis = Literal["epoch", "samples", "tokens", "seconds"]
SEEN = "seen/"  # of the columns that only W&B's charts need; readers of runs leave them out
LAYERS = "curvature/layers"
_AXES = {"epoch": "epoch", "samples": f"{SEEN}samples", "tokens": f"{SEEN}tokens",
         "seconds": "_runtime"}  # fmt: skip
_CHARTED = ("train", "val", "test", "alpha", "gamma", "s", "curvature")
_MOST_ROWS = 10_000


@dataclass(frozen=True)
class RunInfo:
    """What a tracker gets of a run before its first number."""

    id: str
    sweep: str | None
    config: dict[str, Any]
    directory: Path


class Tracker(Protocol):
    """Where runs are viewed."""

    def start(self) -> None:
        """Begin, or continue after an interruption."""

    def log(self, history: list[Row]) -> None:
        """Send the rows of ``history`` that were not sent yet."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Send the summary and end; ``summary["state"]`` is how the run ended."""

    def abandon(self, *, failed: bool) -> None:
        """End without a summary: the run failed, or was interrupted and will go on."""


class NullTracker:
    """Sends nothing: the run folder is all."""

    def __init__(self, info: RunInfo) -> None:
        del info

    def start(self) -> None:
        """Do nothing."""

    def log(self, history: list[Row]) -> None:
        """Do nothing."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Do nothing."""

    def abandon(self, *, failed: bool) -> None:
        """Do nothing."""


class WandbTracker:
    """Weights & Biases: one W&B run a run, of the same id, grouped by sweep.

    Args:
        info: the run.
        project: W&B project.
        entity: W&B user or team; None for the account's default.
        mode: "offline" writes files below ``<runs_dir>/wandb`` and opens no connection.
        tags: W&B tags.
        job_type: what the run is for: "train", or "tune" for the search of hyperparameters.
        x: what charts are drawn against at first: epochs, samples or tokens seen (samples where
            there are no tokens), or seconds since the run's start; W&B can change it later.
    """

    def __init__(
        self,
        info: RunInfo,
        project: str = "spectral-bench",
        entity: str | None = None,
        mode: Literal["offline", "online", "disabled"] = "offline",
        tags: list[str] | None = None,
        *,
        job_type: str = "train",
        x: Axis = "epoch",
    ) -> None:
        self.info, self.project, self.entity = info, project, entity
        self.mode, self.tags, self.job_type = mode, list(tags or []), job_type
        self._seen = seen_a_step(info.config)
        self.x = x
        self._run: Any = None
        self._next_step = 0

    def start(self) -> None:
        """Open the W&B run; a run of this id that W&B already has is continued."""
        import wandb  # a second to import, and not needed without W&B

        self.info.directory.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            id=self.info.id,
            name=display_name(self.info),
            group=self.info.sweep,
            job_type=self.job_type,
            tags=self.tags,
            config=self.info.config,
            dir=str(self.info.directory),
            resume="allow",
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=60,
                # A killed run would otherwise lose up to 15 s of rows.
                x_transaction_log_flush_interval=1.0,
            ),
        )
        # W&B would otherwise put the last history row over the summary when the run ends.
        self._run.define_metric("*", summary="none")
        axis = chart_axis(self.x, self._seen)
        for group in _CHARTED:  # not against steps, W&B's own choice
            self._run.define_metric(f"{group}/*", step_metric=axis, summary="none")
        self._run.define_metric("step/*", step_metric="step", summary="none")
        # What the server has already, it would refuse; an offline file begins at 0.
        self._next_step = int(self._run.step)

    def log(self, history: list[Row]) -> None:
        """Send new rows; the last row of ``history`` must be complete."""
        for row in history:
            if row["step"] >= self._next_step:
                seen = {name: row["step"] * count for name, count in self._seen.items()}
                self._run.log({**row, **seen}, step=row["step"])
        if history:
            self._next_step = history[-1]["step"] + 1

    def finish(self, summary: dict[str, Any]) -> None:
        """Send the summary and what was measured of each layer, and close the W&B run."""
        import wandb

        for name, (columns, rows) in layer_tables(self.info.directory / self.info.id).items():
            self._run.summary[name] = wandb.Table(columns=columns, data=rows)
        self._close(summary, exit_code=0)

    def abandon(self, *, failed: bool) -> None:
        """Close the W&B run as crashed; an interrupted one is still without a final state."""
        self._close({"state": "failed"} if failed else {}, exit_code=1)

    def _close(self, summary: dict[str, Any], exit_code: int) -> None:
        import wandb

        self._run.summary.update(summary)
        self._run.finish(exit_code=exit_code)
        wandb.teardown()  # finish() may return before an offline log is written to its end


def seen_a_step(config: dict[str, Any]) -> dict[str, int]:
    """Return how many samples, and tokens of a language model, a step of the run sees."""
    trainer, dataset = config.get("trainer") or {}, config.get("dataset") or {}
    if "batch_size" not in trainer:
        return {}
    seen = {f"{SEEN}samples": int(trainer["batch_size"])}
    if "context_length" in dataset:
        seen[f"{SEEN}tokens"] = seen[f"{SEEN}samples"] * int(dataset["context_length"])
    return seen


def chart_axis(x: Axis, seen: Mapping[str, int]) -> str:
    """Return the column of W&B's rows that is ``x``; samples where a run has no tokens."""
    if x == "tokens" and f"{SEEN}tokens" not in seen:
        return _AXES["samples"]
    return _AXES[x]


def layer_tables(folder: Path) -> dict[str, tuple[list[str | int], list[Iterable[Any]]]]:
    """Return the run folder's measured exponents as W&B's table ``curvature/layers``.

    Columns and rows of ``exponents.parquet``, one a layer and epoch; None for what is not finite,
    and the latest 10,000 rows, W&B's limit. Nothing where nothing was measured.
    """
    path = folder / EXPONENTS
    if not path.is_file():
        return {}
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    columns = [column.to_pylist() for column in table.columns]
    rows: list[Iterable[Any]] = [list(map(_finite, row)) for row in zip(*columns, strict=True)]
    return {LAYERS: (list(table.column_names), rows[-_MOST_ROWS:])}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def display_name(info: RunInfo) -> str:
    """Return a run's name for people, "muon digits/convnet s0"; its id where it has no names."""
    names = info.config.get("names")
    if not isinstance(names, dict):
        return info.id
    parts = (names.get("optimizer"), f"{names.get('dataset')}/{names.get('model')}")
    return f"{parts[0]} {parts[1]} s{info.config.get('seed')}"


class Guarded:
    """A tracker that cannot hurt the run: after its first failure it is left alone."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self.healthy = True

    def _attempt(self, act: Callable[[], None]) -> None:
        if not self.healthy:
            return
        try:
            act()
        except Exception as error:  # an outage, a full disk, a changed client: never our run's end
            self.healthy = False
            reason = (str(error).strip().splitlines() or [""])[0]
            warnings.warn(
                f"tracker stopped ({type(error).__name__}: {reason}); the run goes on and its "
                "folder has everything; ask for the run again to send it later",
                stacklevel=3,
            )

    def start(self) -> None:
        """See Tracker."""
        self._attempt(self._tracker.start)

    def log(self, history: list[Row]) -> None:
        """See Tracker."""
        self._attempt(lambda: self._tracker.log(history))

    def finish(self, summary: dict[str, Any]) -> None:
        """See Tracker."""
        self._attempt(lambda: self._tracker.finish(summary))

    def abandon(self, *, failed: bool) -> None:
        """See Tracker."""
        self._attempt(lambda: self._tracker.abandon(failed=failed))


def open_tracker(setup: Setup, stored: dict[str, Any], source: dict[str, Any]) -> Guarded:
    """Return the tracker of a run, with its stored config and the provenance of its attempt."""
    run, known = setup.config, {**stored, "provenance": source}
    info = RunInfo(setup.identity.id, run.sweep, known, Path(run.runs_dir))
    return Guarded(instantiate(run.tracker)(info))
