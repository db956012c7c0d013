"""Time, steps and FLOPs to a target: how far a run must come, and when it came so far."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal, TypedDict, cast

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field

from bench import paths

Metric = Literal["val/accuracy", "val/loss", "test/accuracy", "test/loss"]
_MEASURES = ("step", "epoch", "seconds", "flops")


class Target(BaseModel):
    """A value of a metric, reached from below (accuracy) or from above (loss)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    metric: Metric
    value: float = Field(gt=0)

    def reached(self, measured: Mapping[str, float]) -> bool:
        """Whether an evaluation is there; exactly at the value is."""
        found = measured[self.metric]
        if self.metric.endswith("loss"):
            return found <= self.value
        return found >= self.value


class Arrival(TypedDict):
    """Where a run first reached its target; ``flops`` is None where they were not counted."""

    step: int
    epoch: float
    seconds: float
    flops: float | None


@functools.cache
def _listed() -> dict[str, dict[str, dict[str, Any]]]:
    listed = OmegaConf.to_container(OmegaConf.load(paths.conf_dir() / "targets.yaml"))
    return cast("dict[str, dict[str, dict[str, Any]]]", listed)


def find(asked: Target | Literal["auto"] | None, names: Mapping[str, str]) -> Target | None:
    """Return a run's target: "auto" looks for its dataset and model in conf/targets.yaml."""
    if asked != "auto":
        return asked
    entry = _listed().get(names["dataset"], {}).get(names["model"])
    return None if entry is None else Target.model_validate(entry)


def target_summary(target: Target | None, arrival: Arrival | None) -> dict[str, Any]:
    """Return what a summary says of the target: all names whether it was reached or missed.

    A miss has ``target/reached`` false and None for step, epoch, seconds (of training: data and
    steps) and flops. Without a target there is nothing to say.
    """
    if target is None:
        return {}
    found = dict(arrival) if arrival is not None else {}
    return {
        "target/metric": target.metric,
        "target/value": target.value,
        "target/reached": arrival is not None,
        **{f"target/{name}": found.get(name) for name in _MEASURES},
    }
