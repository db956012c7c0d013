"""A run's summary, a pure function of its history and its clock, so a resumed run gets the same.

The clock is split by where seconds go. A target is how far a run must come.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypedDict, cast, get_args

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field

from bench import files
from bench.build import Shape, TokenShape
from bench.data.base import Data
from bench.data.tokens import TokenStream
from bench.run_folder import Row, State

Phase = Literal["data", "step", "evaluation", "compile", "checkpoint", "curvature"]
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


Metric = Literal["val/accuracy", "val/loss", "test/accuracy", "test/loss"]
_MEASURES = ("step", "epoch", "seconds", "flops")


class Target(BaseModel):
    """A value of a metric, reached from below (accuracy) or from above (loss)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    metric: Metric
    value: float = Field(gt=0)

    def reached(self, measured: Mapping[str, float]) -> bool:
        """Whether an evaluation is there; exactly at the value is."""
        value = measured[self.metric]
        if self.metric.endswith("loss"):
            return value <= self.value
        return value >= self.value


class Arrival(TypedDict):
    """Where a run first reached its target; ``flops`` is None where they were not counted."""

    step: int
    epoch: float
    seconds: float
    flops: float | None


@functools.cache
def _listed() -> dict[str, dict[str, dict[str, Any]]]:
    listed = OmegaConf.to_container(OmegaConf.load(files.conf_dir() / "targets.yaml"))
    return cast("dict[str, dict[str, dict[str, Any]]]", listed)


def find(asked: Target | Literal["auto"] | None, names: Mapping[str, str]) -> Target | None:
    """Return a run's target: "auto" looks for its dataset and model in conf/targets.yaml."""
    if asked != "auto":
        return asked
    entry = _listed().get(names["dataset"], {}).get(names["model"])
    return None if entry is None else Target.model_validate(entry)


def target_summary(target: Target | None, arrival: Arrival | None) -> dict[str, Any]:
    """Return what a summary has of the target: all names whether it was reached or missed.

    A miss has ``target/reached`` false and None for step, epoch, seconds (of training: data and
    steps) and flops. Nothing without a target.
    """
    if target is None:
        return {}
    reached = dict(arrival) if arrival is not None else {}
    return {
        "target/metric": target.metric,
        "target/value": target.value,
        "target/reached": arrival is not None,
        **{f"target/{name}": reached.get(name) for name in _MEASURES},
    }


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
