"""What a study's sweep file plans: the values along each axis of its grid, and which lack runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

_CALL = "("  # of Hydra's range(...), glob(...): not a list that can be read off


@dataclass(frozen=True)
class Grid:
    """The values along each axis, such as ``{"optimizer": ("sgd", "adamw"), "seed": (0, 1)}``."""

    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many runs the grid plans; 0 where it names none."""
        return math.prod(map(len, self.axes.values())) if self.axes else 0

    def absent(self, runs: pd.DataFrame) -> dict[str, list[str]]:
        """Return the values, as typed, that none of ``runs`` has, by axis; of axes they tell.

        Args:
            runs: rows of `analysis.runs.load_runs`.
        """
        found: dict[str, list[str]] = {}
        for axis, planned in self.axes.items():
            column = next((name for name in (axis, f"config.{axis}") if name in runs), None)
            if column is None:
                continue
            there = set(runs[column].dropna())
            lacking = [str(value) for value in planned if value not in there]
            found |= {axis: lacking} if lacking else {}
        return found


def grid(path: Path | None) -> Grid:
    """Return the grid of a sweep file; empty where there is none, or it is not of plain lists."""
    config = OmegaConf.load(path) if path else OmegaConf.create()
    params = OmegaConf.select(config, "hydra.sweeper.params")
    if params is None:
        return Grid()
    axes = {str(axis): str(values) for axis, values in params.items()}
    if any(_CALL in values for values in axes.values()):
        return Grid()
    return Grid({axis: tuple(map(_value, told.split(","))) for axis, told in axes.items()})


def tuning_metric(path: Path | None) -> str | None:
    """Return what a sweep file's tuning is scored by, such as "val/loss"; None without tuning."""
    config = OmegaConf.load(path) if path else OmegaConf.create()
    told = OmegaConf.select(config, "study.tuning.metric")
    return None if told is None else str(told)


def _value(word: str) -> Any:
    """Return what Hydra would make of a word: 0.1 a number, none a word."""
    return OmegaConf.from_dotlist([f"value={word.strip()}"]).value
