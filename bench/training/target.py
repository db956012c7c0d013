"""How far a run must come, and where it got there.

A target is a value of a validation metric. Evaluations are fed in order; where the first that is
there follows one that was not, the arrival is interpolated linearly between the two. Commands that
only look at runs use this too: no torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field

from bench import files

Metric = Literal["val/accuracy", "val/loss", "test/accuracy", "test/loss"]
# The metrics of the evaluation every so many steps, by what they are of a whole epoch.
OF_STEPS: dict[str, str] = {"val/accuracy": "step/val_accuracy", "val/loss": "step/val_loss"}
MEASURES = ("step", "epoch", "seconds", "flops", "joules")  # what it took to get to the target
Spent = Mapping[str, float | None]  # until an evaluation, by `MEASURES`; None: not counted


class Target(BaseModel):
    """A value of a metric, reached from below (accuracy) or from above (loss)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    metric: Metric
    value: float = Field(gt=0)

    def reached(self, value: float) -> bool:
        """Whether an evaluation's value is there; exactly at the target's is."""
        return value <= self.value if self.metric.endswith("loss") else value >= self.value


@functools.cache
def _listed() -> dict[str, dict[str, dict[str, Any]]]:
    from omegaconf import OmegaConf

    listed = OmegaConf.to_container(OmegaConf.load(files.conf_dir() / "targets.yaml"))
    return cast("dict[str, dict[str, dict[str, Any]]]", listed)


def find(asked: Target | Literal["auto"] | None, names: Mapping[str, str]) -> Target | None:
    """Return a run's target: "auto" looks for its dataset and model in conf/targets.yaml."""
    if asked != "auto":
        return asked
    entry = _listed().get(names["dataset"], {}).get(names["model"])
    return None if entry is None else Target.model_validate(entry)


class Arrival(NamedTuple):
    """Where a run first reached its target.

    Attributes:
        spent: by `MEASURES`.
        interpolated: false at the run's first evaluation: there is none before it.
        resolution: steps, from the evaluation before (or the start) to that which was there.
    """

    spent: dict[str, float | None]
    interpolated: bool
    resolution: float


class Approach:
    """Looks for a run's arrival at its target among its evaluations.

    Attributes:
        arrival: None until the target is reached.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.arrival: Arrival | None = None
        self._before: tuple[float, Spent] | None = None

    def see(self, value: float, spent: Spent) -> None:
        """Take in the next evaluation of the target's metric; one that is not finite is none."""
        if self.arrival is not None or not math.isfinite(value):
            return
        if self.target.reached(value):
            self.arrival = self._arrival(value, spent)
        self._before = (value, dict(spent))

    def _arrival(self, value: float, spent: Spent) -> Arrival:
        assert spent["step"] is not None
        if self._before is None:
            return Arrival(dict(spent), interpolated=False, resolution=spent["step"])
        before, earlier = self._before
        share = (self.target.value - before) / (value - before)
        where: dict[str, float | None] = {}
        for name, end in spent.items():
            start = earlier.get(name)
            known = start is not None and end is not None
            where[name] = (1 - share) * start + share * end if known else None  # type: ignore[operator]
        assert earlier["step"] is not None
        return Arrival(where, interpolated=True, resolution=spent["step"] - earlier["step"])

    def state_dict(self) -> dict[str, Any]:
        """Return what there is so far, as plain containers."""
        return {
            "before": None if self._before is None else list(self._before),
            "arrival": None if self.arrival is None else self.arrival._asdict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` gave."""
        self._before = None if state["before"] is None else tuple(state["before"])
        self.arrival = None if state["arrival"] is None else Arrival(**state["arrival"])


def target_summary(approach: Approach | None) -> dict[str, Any]:
    """Return what a summary has of the target: all names whether it was reached or missed.

    A miss has ``target/reached`` false and None for step, epoch, seconds (of training: data and
    steps), flops and joules, for whether they are interpolated, and for the resolution in steps.
    Nothing without a target.
    """
    if approach is None:
        return {}
    target, found = approach.target, approach.arrival
    return {
        "target/metric": target.metric,
        "target/value": target.value,
        "target/reached": found is not None,
        **{f"target/{name}": found.spent.get(name) if found else None for name in MEASURES},
        "target/interpolated": found.interpolated if found else None,
        "target/resolution": found.resolution if found else None,
    }
