"""What tuning has cost each optimizer, counted from the tuning runs themselves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.page.study import span
from analysis.page.text import phrase
from analysis.table.model import NOT_SCIENTIFIC_TRAINER, Run, text
from analysis.table.select import records
from analysis.table.timing import SECONDS

Place = tuple[str, str, str]  # dataset, model, optimizer
RED = "🔴"
_SEARCHED = ("config.optimizer.", "config.schedule.", "config.trainer.")
_SCALE = ("trainer", "dataset", "model", "schedule")  # what may be smaller in a trial
NOTHING = "–"


@dataclass(frozen=True)
class Budget:
    """``trials`` settings were tried with ``runs`` finished runs of ``epochs`` epochs in all.

    ``keys`` are the config columns in which the trials differ, ``tried`` their values.
    """

    trials: int = 0
    runs: int = 0
    epochs: float = 0.0
    keys: tuple[str, ...] = ()
    tried: frozenset[tuple[Any, ...]] = frozenset()

    @property
    def cost(self) -> tuple[int, int, float]:
        """What must be equal for a fair comparison."""
        return self.trials, self.runs, self.epochs

    def __str__(self) -> str:
        return f"{self.trials} trials ({self.runs} runs, {self.epochs:g} epochs)"

    def settings(self, run: Run) -> str:
        """Return the tuned settings of a reported run; red where no trial had them."""
        keys = self.keys or ("config.optimizer.lr",)
        found = [(key, run.get(key)) for key in keys if key in run]
        words = ", ".join(f"{short(key)}={_number(value)}" for key, value in found)
        if self.keys and tuple(value for _, value in found) not in self.tried:
            words += f" {RED} not among its trials"
        return words or NOTHING


def budgets(tuning: pd.DataFrame) -> dict[Place, Budget]:
    """Return the budget of each optimizer on each dataset and model, of finished runs."""
    if tuning.empty:
        return {}
    spent = tuning[tuning["state"].isin(["done", "diverged"])]
    found = {}
    for place, runs in spent.groupby(["dataset", "model", "optimizer"], sort=True):
        keys = tuple(searched(runs))
        trials = records(runs, SECONDS)
        found[tuple(map(str, place))] = Budget(
            trials=runs["variant"].nunique(),
            runs=len(runs),
            epochs=math.fsum(runs["config.trainer.epochs"]),
            keys=keys,
            tried=frozenset(tuple(run[key] for key in keys) for run in trials),
        )
    return found  # type: ignore[return-value]


def searched(runs: pd.DataFrame) -> list[str]:
    """Return the columns in which the trials among ``runs`` differ; their length is none."""
    return [str(key) for key in runs.columns if _searched(str(key), runs)]


def _searched(key: str, runs: pd.DataFrame) -> bool:
    own = key.startswith(_SEARCHED) and key.split(".")[2] not in (*NOT_SCIENTIFIC_TRAINER, "epochs")
    return own and runs[key].nunique(dropna=False) > 1


def usual(found: Sequence[Budget]) -> tuple[int, int, float]:
    """Return the cost that most of ``found`` have, the larger one of equals."""
    counts = Counter(one.cost for one in found)
    return max(counts, key=lambda cost: (counts[cost], cost))


def line(
    found: Mapping[str, Budget], tuning: pd.DataFrame, *, tuned: bool = False,
    report: pd.DataFrame | None = None, known: Sequence[str] = (),
) -> str:  # fmt: skip
    """Say whether the budgets of one table's optimizers are equal, and what they do not count.

    Args:
        found: the budget of each optimizer of the table.
        tuning: the tuning runs.
        tuned: whether the reported runs say that they are tuned.
        report: the reported runs.
        known: what was known before the first trial, a sentence each.
    """
    costs = {one.cost for one in found.values()}
    kind = "unequal" if len(costs) > 1 else "equal"
    if costs == {Budget().cost}:
        kind = "unknown" if tuned else "untuned"
    seeds = span([int(seed) for seed in tuning["seed"].dropna()]) if len(tuning) else ""
    each, costed = next(iter(found.values())), sorted(found.items())
    smaller = (
        [] if report is None or kind in ("unknown", "untuned") else transferred(tuning, report)
    )
    return phrase("study.md.j2", "budget", kind, each, costed, seeds, RED, smaller, known)


def transferred(tuning: pd.DataFrame, report: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return in what the trials are other runs than those reported: key, theirs, the report's.

    Of the options of trainer, dataset, model and schedule of which each of the two has one value.
    """
    changes = []
    for key in map(str, report.columns):
        group, _, option = key.removeprefix("config.").partition(".")
        if key not in tuning or group not in _SCALE or option in NOT_SCIENTIFIC_TRAINER:
            continue
        values = [frame[key].dropna().unique() for frame in (tuning, report)]
        if all(len(one) == 1 for one in values) and values[0][0] != values[1][0]:
            changes.append((f"{group}.{option}", text(values[0][0]), text(values[1][0])))
    return changes


def short(key: str) -> str:
    """Return a column of the config as a reader knows it: lr, trainer.grad_clip."""
    return key.removeprefix("config.").removeprefix("optimizer.")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else text(value)
