"""Runs placed in the rows and columns of a table, and which of them have a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.table.model import Comparable, Key, Run
from analysis.table.targets import has_target, is_target


@dataclass(frozen=True)
class Grid:
    """``runs`` by (row, column); the rows' ``labels``, in order; each column's expected seeds.

    ``timing``: by column, which of its runs' seconds may be compared.
    """

    metric: str
    runs: Mapping[tuple[Key, Key], list[Run]]
    labels: Mapping[Key, str]
    seeds: Mapping[Key, int]
    timing: Mapping[Key, Comparable]

    @property
    def columns(self) -> list[Key]:
        """The columns in order."""
        return list(self.seeds)

    def at(self, where: Key) -> dict[str, list[Run]]:
        """Return the runs of a column, by the label of their row."""
        return {label: self.runs.get((key, where), []) for key, label in self.labels.items()}

    def used(self, where: Key) -> dict[str, list[Run]]:
        """Return the runs of a column that have a number, by the label of their row."""
        return {
            label: [run for run in runs if usable(run, self.metric)]
            for label, runs in self.at(where).items()
        }

    def numbers(self) -> list[list[dict[int, float | None]]]:
        """Return each cell's numbers by seed, by row and column."""
        return [
            [by_seed(self.runs.get((key, where), []), self.metric) for where in self.columns]
            for key in self.labels
        ]

    def judged_runs(self) -> list[list[list[Run]]]:
        """Return each cell's runs that have a number, or diverged."""
        return [
            [
                [run for run in self.runs.get((key, where), [])
                 if usable(run, self.metric) or run["state"] == "diverged"]
                for where in self.columns
            ]
            for key in self.labels
        ]  # fmt: skip


def usable(run: Run, metric: str) -> bool:
    """Return whether the run's number may be used: it is done, and it is finite or a miss."""
    if run["state"] != "done":
        return False
    return is_finite(run.get(metric)) or (is_target(metric) and has_target(run))


def is_finite(value: Any) -> bool:
    """Return whether a summary's value is a finite number."""
    return isinstance(value, float) and math.isfinite(value)


def by_seed(runs: Sequence[Run], metric: str) -> dict[int, float | None]:
    """Return the runs' numbers by seed, None for a run that diverged; others are left out."""
    found: dict[int, float | None] = {}
    for run in runs:
        if usable(run, metric):
            found[run["seed"]] = float(run[metric])
        elif run["state"] == "diverged":
            found[run["seed"]] = None
    return found
