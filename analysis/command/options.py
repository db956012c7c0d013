"""The options that commands on runs share: which runs, judged by what, compared how."""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import Field, ValidationError

from analysis.judge.registered import plan_of
from analysis.judge.section import NO_PLAN
from analysis.runs import load_history
from analysis.table.build import build_table
from analysis.table.model import Spread, Statistic, Table
from analysis.table.targets import Asked
from bench import options as cli
from bench.training.target import Target


class RunOptions(cli.Options):
    """Which runs are read, and by which of their numbers they are judged."""

    source: str = Field("runs", description="folder, archives, offline:<folder> or wandb:<e>/<p>")
    sweep: str | None = Field(None, description="only the runs of this sweep")
    metric: str = Field("test/accuracy", description="a number of the runs' summaries")


class ComparisonOptions(RunOptions):
    """How runs are averaged over seeds, and compared with a baseline."""

    seeds: list[int] | None = Field(None, description="expected seeds; default: all seen")
    statistic: Statistic = Field("mean", description="of the seeds; iqm: interquartile mean")
    spread: Spread = Field("std", description="beside it; interval: 95 % confidence interval")
    baseline: list[str] = Field([], description="compare with these rows, paired by seed")
    better: Literal["higher", "lower"] | None = Field(
        None, description="direction of a metric whose name does not tell"
    )
    level: float = Field(
        0.05, gt=0, lt=1, description="probability of any false verdict in the table"
    )
    margin: float | None = Field(
        None, gt=0, description="the smallest difference that matters, in the metric's unit:"
        " what is shown to be below it is called equivalent"
    )  # fmt: skip
    looks: int | None = Field(
        None, ge=1, description="how often results were seen while seeds were added, this time"
        " counted; default: as registered, or as the sweep's file says (study.looks), else 1"
    )  # fmt: skip
    mix_timing: bool = Field(
        False, description="show times of different devices, packings or code versions as one"
    )
    target: str | None = Field(
        None, description="of metric=target/seconds and the like: auto (the median final value of"
        " the baseline) or {metric: val/loss, value: 1.5}; default: each run's own"
    )  # fmt: skip

    def table(self, runs: pd.DataFrame) -> Table:
        """Return the table of ``runs`` that is asked for.

        Every option, a subclass's too, that `build_table` has an argument for is passed on.

        Raises:
            ValueError: as `build_table`.
        """
        names = signature(build_table).parameters.keys() & type(self).model_fields.keys()
        asked: dict[str, Any] = {name: getattr(self, name) for name in names}
        sweeps = {self.sweep} if self.sweep else set(runs["sweep"])
        plan = plan_of(
            next(iter(sweeps)) if len(sweeps) == 1 else None, self.metric,
            level=self.level, looks=self.looks, margin=self.margin,
        )  # fmt: skip
        # Pairs that a study's file asks for are one family with the baselines' columns.
        asked["plan"] = plan if self.baseline or plan.primary else NO_PLAN
        asked["target"] = _target(self.target)
        asked["histories"] = partial(load_history, self.source)
        return build_table(runs, **asked)


def _target(text: str | None) -> Asked | None:
    """Read ``target=``, written as in a run's config.

    Raises:
        ValueError: it is neither auto nor a target.
    """
    if text is None:
        return None
    if text == "auto":
        return "auto"
    try:
        return Target.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        example = '"{metric: val/accuracy, value: 0.9}"'
        raise ValueError(f"target={text}: write auto, or for example {example}") from error
