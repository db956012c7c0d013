"""What a study's sweep file plans: the values along each axis of its grid, and which lack runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from omegaconf import DictConfig, OmegaConf

from bench.tuning.spec import study_of


@dataclass(frozen=True)
class Plan:
    """The values along each axis, such as ``{"optimizer": ("sgd", "adamw"), "seed": (0, 1)}``.

    ``scored_by`` is what the tuning is scored by, such as "val/loss"; None without tuning.
    ``looks``: how often results were looked at while seeds were added. ``contrasts``: pairs of
    optimizers to compare, beside those with the baselines.
    """

    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    scored_by: str | None = None
    looks: int = 1
    contrasts: tuple[tuple[str, str], ...] = ()

    @property
    def size(self) -> int:
        """How many runs the grid plans; 0 where it names none."""
        return math.prod(map(len, self.axes.values())) if self.axes else 0

    @property
    def first(self) -> str | None:
        """The first optimizer of the grid."""
        return next(iter(self.axes.get("optimizer", ())), None)

    def absent(self, runs: pd.DataFrame) -> dict[str, list[str]]:
        """Return the values, as typed, that none of ``runs`` has, by axis; of axes they tell.

        Args:
            runs: rows of `analysis.runs.load_runs`.
        """
        found: dict[str, list[str]] = {}
        for axis, planned in self.axes.items():
            column = next((name for name in (axis, f"config.{axis}") if name in runs), None)
            if column is None or any(isinstance(value, list | dict) for value in planned):
                continue
            there = {None if pd.isna(value) else value for value in runs[column]}
            lacking = [_typed(value) for value in planned if value not in there]
            found |= {axis: lacking} if lacking else {}
        return found


def plan(path: Path | None) -> Plan:
    """Return what a sweep file plans; without axes where there is none, or one is no list."""
    config = OmegaConf.load(path) if path else OmegaConf.create()
    assert isinstance(config, DictConfig)
    study = study_of(config)
    scored_by = study.tuning.metric if study.tuning else None
    words = [
        f"{axis}={values}"
        for axis, values in (OmegaConf.select(config, "hydra.sweeper.params") or {}).items()
    ]
    overrides = OverridesParser.create().parse_overrides(words)
    if any(one.is_sweep_override() and not one.is_choice_sweep() for one in overrides):
        overrides = []  # range(...) and the like
    return Plan(
        {one.key_or_group: _values(one) for one in overrides},
        scored_by,
        study.looks,
        tuple(study.contrasts),
    )


def _typed(value: Any) -> str:
    return "null" if value is None else str(value)


def _values(override: Override) -> tuple[Any, ...]:
    """Return the values of one axis, as Hydra reads them."""
    several = override.is_sweep_override()
    every = list(override.sweep_iterator()) if several else [override.value()]
    return tuple(one.text if isinstance(one, QuotedString) else one for one in every)
