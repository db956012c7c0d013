"""Stopping a run between two steps: what schedulers, time limits and Ctrl-C ask for.

A signal only leaves a note. The training loop reads it after each step, writes a checkpoint and
raises ``StopRequested``; whoever runs the run decides what follows (a requeue, or nothing).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# What SLURM sends ahead of a time limit or a preemption (by site), and at the end of either.
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)

_reason: str | None = None


class StopRequested(KeyboardInterrupt):
    """The run was asked to stop; its checkpoint is written, and the same command continues it."""


def listen() -> None:
    """From now on, SIGUSR1, SIGUSR2 and SIGTERM ask the run to stop at its next step."""
    for number in SIGNALS:
        signal.signal(number, _note)


@contextmanager
def answering(handler: Callable[[int, FrameType | None], None] | None = None) -> Iterator[None]:
    """For a while, let ``handler`` hear these signals, or else the run of this process."""
    before = {number: signal.signal(number, handler or _note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
        clear()


def request(reason: str) -> None:
    """Ask the run of this process to stop at its next step."""
    global _reason  # noqa: PLW0603  (a signal reaches a process, not an object)
    _reason = reason


def requested() -> str | None:
    """Return why the run is to stop; None where it is not."""
    return _reason


def clear() -> None:
    """Forget the request."""
    global _reason  # noqa: PLW0603
    _reason = None


def _note(number: int, frame: FrameType | None) -> None:
    del frame
    request(signal.Signals(number).name)
