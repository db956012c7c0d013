"""The split clock: where a run's seconds go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

Phase = Literal["data", "step", "evaluation", "compile", "checkpoint", "curvature"]
PHASES: tuple[Phase, ...] = get_args(Phase)


class Clock:
    """Host seconds by phase, summed over the attempts of a run.

    On a GPU the host waits for the device only where a number is read, at the end of a logging
    window, so that "data" there is the time to launch the work and "step" includes the waiting.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def __call__(self, phase: Phase) -> Iterator[None]:
        """Count the time inside the block to ``phase``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    @property
    def training(self) -> float:
        """Seconds of training proper: data and steps, without the others."""
        return self.seconds["data"] + self.seconds["step"]

    def state_dict(self) -> dict[str, float]:
        """Return the seconds so far."""
        return dict(self.seconds)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from ``state``."""
        self.seconds.update(state)
