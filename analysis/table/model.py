"""What a table over seeds is: its numbers without a form, and which runs share a row.

Seeds of one variant do, and no others. Where a column holds several variants of one optimizer (a
learning-rate grid, a longer training), each becomes a row of its own, labelled by what differs:
"adamw lr=0.01", "adamw trainer.epochs=30".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.judge.section import Section
from analysis.judge.verdicts import Comparison
from analysis.run.frame import GROUPS
from analysis.stats import NO_INTERVAL, Interval, Numbers

Run = Mapping[str, Any]  # a row of the runs' frame: column -> value, None where it is missing
Key = tuple[Any, ...]

# What only says where and how a run was carried out: two variants never differ by it.
NOT_SCIENTIFIC = ("tracker", "runs_dir", "data_dir", "exponents", "target", "tuned")
NOT_SCIENTIFIC_TRAINER = (
    "device", "threads", "progress", "log_every", "checkpoint_every", "checkpoint_seconds",
    "eval_batch_size", "compile", "cuda_graph", "accounting", "devices",
    "curvature_every", "curvature", "evaluate_every", "evaluate_samples",
)  # fmt: skip
NOT_SCIENTIFIC_OPTIMIZER = ("compile", "fused", "foreach", "capturable")
NOT_SCIENTIFIC_DATASET = ("workers",)


def assign_rows(
    runs: Sequence[Run], rows: Sequence[str], cols: Sequence[str]
) -> tuple[list[Key], dict[Key, str]]:
    """Return each run's row key, and the label of every row in the order of display.

    Args:
        runs: the runs; each has a variant.
        rows: columns whose values name a row, such as ("optimizer",).
        cols: columns whose values name a column, such as ("dataset", "model").
    """
    families: dict[Key, list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        families[values(run, rows)].append(index)
    keys: list[Key] = [()] * len(runs)
    labels: dict[Key, str] = {}
    for family, members in families.items():
        details = _details([runs[index] for index in members], cols, "optimizer" in rows)
        for index in members:
            key = (family, *details[str(runs[index]["variant"])])
            keys[index] = key
            parts = [f"{name}={text(value)}" for name, value in key[1:]]
            labels[key] = " ".join(["/".join(map(text, family)), *parts])
    ordered = sorted(labels, key=lambda key: ([order(v) for v in key[0]], _details_order(key)))
    return keys, {key: labels[key] for key in ordered}


def values(run: Run, columns: Iterable[str]) -> Key:
    """Return the run's values in ``columns``."""
    return tuple(run[name] for name in columns)


def text(value: Any) -> str:
    """Return a config value as it would be typed: 20.0 as 20, null for a missing one."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def order(value: Any) -> tuple[int, float, str]:
    """Return a sort key for mixed values: missing, then numbers by size, then text."""
    if value is None:
        return (0, 0.0, "")
    if isinstance(value, str):
        return (2, 0.0, value)
    return (1, float(value), "")


def _details_order(key: Key) -> list[Any]:
    return [(name, order(value)) for name, value in key[1:]]


def distinguishing(runs: Sequence[Run], cols: Sequence[str]) -> list[str]:
    """Return the columns in which variants of one table column differ, group names first.

    Args:
        runs: the runs of one optimizer; each has a variant.
        cols: as for `assign_rows`.
    """
    _, crowds = _crowds(runs, cols)
    return _distinguishing(runs, crowds)


def _crowds(runs: Sequence[Run], cols: Sequence[str]) -> tuple[dict[str, Run], list[list[Run]]]:
    """Return a run of each variant, and those of each column's variants."""
    variants: dict[str, Run] = {}
    columns: dict[Key, set[str]] = defaultdict(set)
    for run in runs:
        variants.setdefault(str(run["variant"]), run)
        columns[values(run, cols)].add(str(run["variant"]))
    return variants, [[variants[v] for v in sorted(members)] for members in columns.values()]


def _details(runs: Sequence[Run], cols: Sequence[str], short: bool) -> dict[str, Key]:
    """Return, for each variant in ``runs``, the (name, value) pairs in which it is different.

    Args:
        runs: the runs of one family (of one optimizer).
        cols: as for `assign_rows`; only variants of one column are to be distinguished.
        short: whether "optimizer." is left out of a name.
    """
    variants, crowds = _crowds(runs, cols)
    names = _distinguishing(runs, crowds)
    details: dict[str, Key] = {
        variant: tuple((_name(key, short), run[key]) for key in names)
        for variant, run in variants.items()
    }
    for members in crowds:  # what the configs do not show (a file's content) still differs
        equal: dict[Key, list[str]] = defaultdict(list)
        for run in members:
            equal[values(run, names)].append(str(run["variant"]))
        for twins in equal.values():
            for variant in twins if len(twins) > 1 else ():
                details[variant] = (*details[variant], ("variant", variant))
    return details


def _distinguishing(runs: Sequence[Run], crowds: Sequence[Sequence[Run]]) -> list[str]:
    """Return the columns in which variants of one table column differ, group names first.

    Keys inside a group count only among runs with the same choice for that group: against
    schedule=constant, schedule=cosine says it all.
    """
    names = [name for name in GROUPS if _varies(name, runs) and _steady(name, runs)]
    distinguishing = [
        name for name in names if any(len({run[name] for run in members}) > 1 for members in crowds)
    ]
    for key in sorted(key for key in runs[0] if key.startswith("config.")):
        group = key.split(".")[1]
        if not _scientific(key) or not _varies(key, runs) or not _steady(key, runs):
            continue
        for members in crowds:
            found: dict[Any, set[Any]] = defaultdict(set)
            for run in members:
                found[run.get(group) if group in distinguishing else None].add(run[key])
            if any(len(choices) > 1 for choices in found.values()):
                distinguishing.append(key)
                break
    return distinguishing


def _scientific(key: str) -> bool:
    _, top, *inner = key.split(".")
    if top == "trainer" and inner:
        return inner[0] not in NOT_SCIENTIFIC_TRAINER
    if top == "optimizer" and inner:
        return inner[-1] not in NOT_SCIENTIFIC_OPTIMIZER
    if top == "dataset" and inner:
        return inner[-1] not in NOT_SCIENTIFIC_DATASET
    return top not in NOT_SCIENTIFIC


def _varies(key: str, runs: Sequence[Run]) -> bool:
    return len({run[key] for run in runs}) > 1


def _steady(key: str, runs: Sequence[Run]) -> bool:
    """Return whether the seeds of each variant agree on ``key``; else it differs by seed."""
    seen: dict[str, Any] = {}
    return all(seen.setdefault(str(run["variant"]), run[key]) == run[key] for run in runs)


def _name(key: str, short: bool) -> str:
    name = key.removeprefix("config.")
    return name.removeprefix("optimizer.") if short else name


Statistic = Literal["mean", "iqm"]
Spread = Literal["std", "interval"]


def in_percent(metric: str) -> bool:
    """Return whether a metric is an accuracy: a fraction, shown in percent."""
    return metric.endswith("accuracy")


def possible(metric: str, shown: Numbers) -> NDArray[np.float64]:
    """Return the ends of a band [n], cut to what the metric can be.

    Student's interval knows no such limits.

    Args:
        metric: an accuracy is 0 to 100, a loss at least 0; of others nothing is known.
        shown: as drawn, an accuracy in percent; NaN stays.
    """
    if in_percent(metric):
        return np.clip(shown, 0.0, 100.0)
    return np.clip(shown, 0.0 if metric.endswith("loss") else -math.inf, math.inf)


@dataclass(frozen=True)
class Cell:
    """One cell: its statistics are over ``run_ids``, the finished runs; NaN where there are none.

    ``std`` is the sample standard deviation, NaN for one run; ``expected`` counts the column's
    seeds; ``diverged`` counts this row's diverged runs; ``members`` are all its runs, finished or
    not, and the number of each that has one. ``seconds`` are those an epoch of its runs
    took, none where they cannot be compared. ``interval`` is the 95 % interval of the
    table's statistic, ``comparisons`` are those with each baseline in its order, None where the
    cell is the baseline's own; ``needed`` are the seeds that would resolve the difference asked
    for, to the first baseline.
    """

    mean: float
    std: float
    n: int
    expected: int
    diverged: int
    seconds: tuple[float, ...]
    run_ids: tuple[str, ...]
    best: bool = False
    iqm: float = math.nan
    interval: Interval = NO_INTERVAL
    comparisons: tuple[Comparison | None, ...] = ()
    needed: int | None = None
    members: tuple[tuple[str, float | None], ...] = ()
    reached: int | None = None  # of a time to a target: how many of the n runs got there

    @property
    def comparison(self) -> Comparison | None:
        """The comparison with the first baseline."""
        return self.comparisons[0] if self.comparisons else None

    @property
    def seconds_per_epoch(self) -> float:
        """The median over the runs: one that had to wait says nothing; NaN where there are none."""
        return median(self.seconds) if self.seconds else math.nan


@dataclass(frozen=True)
class Comparable:
    """Which seconds of a column's runs may be compared.

    ``apart``: the ids of runs that shared their device where others had it alone; their seconds
    are none of the others'. ``mixed``: why the others' seconds cannot be compared; None: they can.
    """

    apart: frozenset[str] = frozenset()
    mixed: str | None = None

    def includes(self, run: Run) -> bool:
        """Return whether the seconds of ``run`` may stand beside the others'."""
        return self.mixed is None and str(run["id"]) not in self.apart


@dataclass(frozen=True)
class Table:
    """A table of numbers, still without a form; ``cells[i][j]`` is row i, column j.

    ``timing[j]``: which seconds of column j may be compared. ``section`` holds every comparison,
    also those with no baseline; None where none was asked for.
    """

    metric: str
    corner: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    timing: tuple[Comparable, ...] = ()
    statistic: Statistic = "mean"
    spread: Spread = "std"
    baselines: tuple[str, ...] = ()
    section: Section | None = None
    resolve: float | None = None
