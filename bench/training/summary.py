"""A run's summary, a pure function of its history and its clock, so a resumed run gets the same.

The clock is split by where seconds go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

from bench.build import Shape, TokenShape
from bench.data.base import Data
from bench.data.tokens import TokenStream
from bench.run_folder import Row, State

Phase = Literal[
    "data", "step", "evaluation", "step_evaluation", "compile", "checkpoint", "curvature"
]
PHASES: tuple[Phase, ...] = get_args(Phase)
_TRAINING: tuple[Phase, ...] = ("data", "step")


class Clock:
    """Host seconds by phase, summed over the attempts of a run.

    On a GPU the host waits for the device only where a number is read, at the end of a logging
    window, so that "data" there is the time to launch the work and "step" includes the waiting.

    Args:
        training: is called at the start of each phase, with whether it is one of training.
    """

    def __init__(self, training: Callable[[bool], None] | None = None) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._training = training

    @contextmanager
    def __call__(self, phase: Phase) -> Iterator[None]:
        """Count the time inside the block to ``phase``."""
        start = time.perf_counter()
        try:
            if self._training is not None:
                self._training(phase in _TRAINING)
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    @property
    def training(self) -> float:
        """Seconds of training proper: data and steps, without the others."""
        return sum(self.seconds[phase] for phase in _TRAINING)

    def state_dict(self) -> dict[str, float]:
        """Return the seconds so far."""
        return dict(self.seconds)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from ``state``."""
        self.seconds.update(state)


_FINAL = ("train/loss", "val/loss", "val/accuracy", "test/loss", "test/accuracy")


def summarise(
    state: State,
    history: list[Row],
    clock: Clock,
    *,
    steps_per_epoch: int,
    batch_size: int,
    parameters: int,
    shape: Shape | None = None,
) -> dict[str, Any]:
    """Return every number a table needs, by name.

    "best/..." is the epoch of highest validation accuracy (the first of equals) and the test
    accuracy there: the test split never chooses. A diverged run has no final accuracies.
    """
    steps = int(history[-1]["step"]) if history else 0
    epochs = steps / steps_per_epoch
    summary: dict[str, Any] = {
        "state": state,
        "steps": steps,
        "epochs": epochs,
        "parameters": parameters,
    }
    evaluated = [row for row in history if "val/accuracy" in row]
    if evaluated and state == "done":
        summary |= {name: evaluated[-1][name] for name in _FINAL}
        best = max(evaluated, key=lambda row: row["val/accuracy"])
        summary |= {
            "best/epoch": best["epoch"],
            "best/val_accuracy": best["val/accuracy"],
            "best/test_accuracy": best["test/accuracy"],
        }
    summary |= {f"clock/{phase}_seconds": clock.seconds[phase] for phase in PHASES}
    if epochs > 0:
        summary["seconds_per_epoch"] = clock.training / epochs
        summary["samples_per_second"] = steps * batch_size / max(clock.training, 1e-9)
        if isinstance(shape, TokenShape):
            summary["tokens_per_second"] = summary["samples_per_second"] * shape.context_length
    return summary


def entropy_summary(data: Data) -> dict[str, float]:
    """Return the validation split's entropies in nats a token; none where it is no stream of them.

    They are what "val/loss" is to be compared with: see `bench.data.tokens.entropies`.
    """
    if not isinstance(data, TokenStream):
        return {}
    entropies = data.entropies("val")
    return {"val/unigram_entropy": entropies.unigram, "val/bigram_entropy": entropies.bigram}
