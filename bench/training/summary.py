"""A run's summary: a pure function of its history and clock, so a resumed run gets the same."""

from __future__ import annotations

from typing import Any

from bench.build import Shape, TokenShape
from bench.data.base import Data
from bench.data.tokens import TokenStream
from bench.run import Row, State
from bench.training.clock import PHASES, Clock

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

    They are what "val/loss" is to be compared with: see `bench.data.ngrams.entropies`.
    """
    if not isinstance(data, TokenStream):
        return {}
    found = data.entropies("val")
    return {"val/unigram_entropy": found.unigram, "val/bigram_entropy": found.bigram}
