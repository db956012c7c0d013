"""What a person sees while a run trains: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from bench.run_folder import Row
from bench.setup import Setup

_QUIET_SECONDS = 15.0  # between plain lines; a short run prints only its result
_SILENT_SECONDS = 60.0  # an epoch that takes longer has lines within it
_COLD_STEPS = 3  # in which code is compiled and a graph recorded: the others are faster


class Progress(Protocol):
    """Follows a run: each step, each epoch."""

    def start_at(self, step: int) -> None:
        """``step`` steps were made before, in an earlier attempt."""

    def advance(self) -> None:
        """One step was made."""

    def losses(self, row: Row) -> None:
        """``row`` of the history has a new training loss."""

    def epoch(self, number: int, row: Row) -> None:
        """Epoch ``number`` (from 1) is over; ``row`` is its history row."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Lines:
    """A line an epoch, at most one every 15 s, and one a minute within longer epochs.

    ``quiet`` for none at all.
    """

    def __init__(self, name: str, epochs: int, total_steps: int, *, quiet: bool = False) -> None:
        self._name, self._epochs, self._total_steps = name, epochs, total_steps
        self._quiet = quiet
        self._row: Row = {}
        self._step = self._first = 0
        self._warm_at = self._last = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def start_at(self, step: int) -> None:
        """Count from there."""
        self._step = self._first = step

    def advance(self) -> None:
        """Print where the run is if nothing was printed for a minute."""
        self._step += 1
        now, made = time.monotonic(), self._step - self._first - _COLD_STEPS
        if made <= 0:
            self._warm_at = now
        if self._quiet or now - self._last < _SILENT_SECONDS:
            return
        self._last = now
        parts = [f"{self._name}: step {self._step}/{self._total_steps}", *_numbers(self._row)]
        if made > 0:
            left = (now - self._warm_at) / made * (self._total_steps - self._step)
            parts.append(f"about {timedelta(seconds=round(left))} left")
        print(", ".join(parts), flush=True)

    def losses(self, row: Row) -> None:
        """Keep it for the next line."""
        self._row = row

    def epoch(self, number: int, row: Row) -> None:
        """Print the epoch's numbers if the last line is long enough ago."""
        now = time.monotonic()
        if self._quiet or now - self._last < _QUIET_SECONDS:
            return
        self._last = now
        print(f"{self._name}: epoch {number}/{self._epochs}", *_numbers(row), sep=", ", flush=True)


class TerminalBar:
    """A bar over all steps, with the last epoch's numbers; it disappears when the run is over."""

    def __init__(self, name: str, total_steps: int) -> None:
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            transient=True,
        )
        self._task = self._bar.add_task(name, total=total_steps, numbers="")
        self._row: Row = {}

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start_at(self, step: int) -> None:
        """Show the steps made before."""
        self._bar.update(self._task, completed=step)

    def advance(self) -> None:
        """Move the bar by one step."""
        self._bar.advance(self._task)

    def losses(self, row: Row) -> None:
        """Show the training loss beside the bar."""
        self._show(row)

    def epoch(self, number: int, row: Row) -> None:
        """Show the epoch's numbers beside the bar."""
        del number
        self._show(row)

    def _show(self, row: Row) -> None:
        self._row |= row  # the last accuracy stays until there is a newer one
        self._bar.update(self._task, numbers=", ".join(_numbers(self._row)))


def make_progress(setup: Setup, total_steps: int) -> Progress:
    """Return what rank 0 shows; "auto" is a bar where standard output is a terminal."""
    name, trainer = setup.identity.id, setup.config.trainer
    style = trainer.progress if setup.team.leads else "none"
    if style == "bar" or (style == "auto" and sys.stdout.isatty()):
        return TerminalBar(name, total_steps)
    return Lines(name, trainer.epochs, total_steps, quiet=style == "none")


def _numbers(row: Row) -> list[str]:
    """What ``row`` has of loss and accuracy, as text."""
    numbers = []
    if "train/loss" in row:
        numbers.append(f"train loss {row['train/loss']:.4f}")
    if "val/accuracy" in row:
        numbers.append(f"validation accuracy {100 * row['val/accuracy']:.1f} %")
    return numbers
