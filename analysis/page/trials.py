"""The trials of a study's tuning runs as arrays, and the report runs that belong to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.judge import selection as judge
from analysis.page import budget
from analysis.stats import Interval
from analysis.table.build import direction

Array = NDArray[np.float64]
EPOCHS = "config.trainer.epochs"


@dataclass(frozen=True)
class Trials:
    """The finished trials of one optimizer at one length, by rising values.

    Attributes:
        optimizer: its name.
        columns: of the config, what was searched; what only follows another is left out.
        settings: ``[k, d]``.
        scores: ``[k, s]`` by tuning seed, larger is better; NaN where a run diverged.
        epochs: of a run.
    """

    optimizer: str
    columns: tuple[str, ...]
    settings: Array
    scores: Array
    epochs: float

    @property
    def keys(self) -> tuple[str, ...]:
        """What was searched, as a reader knows it."""
        return tuple(map(budget.short, self.columns))

    def text(self, index: int) -> str:
        """Return a setting as it would be typed."""
        values = zip(self.keys, self.settings[index], strict=True)
        return ", ".join(f"{key}={value:.4g}" for key, value in values) or "as in its file"


def trials_of(tuning: pd.DataFrame, metric: str) -> list[Trials]:
    """Return the trials of each optimizer and length, of the tuning runs of one dataset and model.

    A trial counts once all of its runs are finished.
    """
    if tuning.empty or metric not in tuning:
        return []
    every = []
    for optimizer, runs in tuning.groupby("optimizer", sort=True):
        columns = tuple(_free(runs, budget.searched(runs)))
        seeds = sorted(runs["seed"].unique())
        for epochs, same_length in runs.groupby(EPOCHS, sort=True):
            made = []
            for _, trial in same_length.groupby("variant", sort=True):
                scores = _scores(trial, metric, seeds)
                if scores is not None:
                    made.append((tuple(trial[list(columns)].iloc[0].astype(float)), scores))
            if made:
                settings, table = zip(*sorted(made, key=lambda row: row[0]), strict=True)
                used = ~np.isnan(np.array(table)).all(axis=0) | (len(seeds) == 1)
                every.append(Trials(
                    str(optimizer), columns, np.array(settings).reshape(len(made), len(columns)),
                    np.array(table)[:, used], float(epochs),  # type: ignore[arg-type]
                ))  # fmt: skip
    return every


def _scores(trial: pd.DataFrame, metric: str, seeds: Sequence[int]) -> list[float] | None:
    """Return a trial's score by seed; None where a run is not finished."""
    if not trial["state"].isin(["done", "diverged"]).all():
        return None
    by_seed = dict(zip(trial["seed"], zip(trial["state"], trial[metric], strict=True), strict=True))
    values = []
    for seed in seeds:
        state, value = by_seed.get(seed, ("missing", math.nan))
        good = state == "done" and math.isfinite(value)
        values.append(direction(metric) * float(value) if good else math.nan)
    return values


def _free(runs: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Return the columns of numbers that follow no other in a fixed ratio; rates first."""
    free: list[str] = []
    for column in sorted(columns, key=lambda name: (not name.endswith(".lr"), len(name), name)):
        values = pd.to_numeric(runs[column], errors="coerce").to_numpy(dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = [values / runs[other].to_numpy(dtype=np.float64) for other in free]
        follows = any(np.ptp(ratio) <= 2e-3 * abs(ratio.mean()) for ratio in ratios)  # four digits
        if np.isfinite(values).all() and not follows:
            free.append(column)
    return free


def at_usual_length(trials: Sequence[Trials]) -> list[Trials]:
    """Return those of the length at which most settings were tried, of equals the longest."""
    counts: dict[float, int] = {}
    for one in trials:
        counts[one.epochs] = counts.get(one.epochs, 0) + one.scores.size
    usual = max(counts, key=lambda epochs: (counts[epochs], epochs), default=math.nan)
    return [one for one in trials if one.epochs == usual]


def noise_of(report: pd.DataFrame, metric: str) -> float:
    """Return the noise of a run of ``report`` (`judge.run_noise`); NaN where it tells none."""
    if report.empty or metric not in report:
        return math.nan
    done = report[report["state"] == "done"]
    wide = done.pivot_table(index=["optimizer", "variant"], columns="seed", values=metric)
    return judge.run_noise(wide.to_numpy(dtype=np.float64)) if len(wide) else math.nan


def tuned_difference(
    tuning: pd.DataFrame,
    report: pd.DataFrame,
    names: tuple[str, str],
    *,
    metric: str,
    scored_by: str,
) -> judge.TunedInterval | None:
    """Return the interval of one optimizer minus another, both as tuned, in the metric's own unit.

    Args:
        tuning: the tuning runs of one dataset and model.
        report: the report runs of the same.
        names: the optimizer, and the one that it is compared with.
        metric: of the report, such as test/accuracy.
        scored_by: of the trials, such as val/accuracy.

    Returns:
        None where one of the two has no finished trial. As `judge.tuned_interval` otherwise.
    """
    beside_by = f"val/{metric.partition('/')[2]}"
    scored, beside = (
        {one.optimizer: one for one in at_usual_length(trials_of(tuning, name))}
        for name in (scored_by, beside_by)
    )
    if not all(name in scored for name in names):
        return None
    seeds = sorted(report["seed"].unique())
    both = []
    for name in names:
        own = scored[name]
        unknown = np.full_like(own.scores, np.nan)
        other = beside[name].scores if name in beside else unknown
        both.append(judge.Tuned(own.scores, _reports(own, report, metric, seeds), other))
    single = min(one.scores.shape[1] for one in both) == 1
    noise = noise_of(report, scored_by) if single else math.nan
    tuned = judge.tuned_interval(*both, noise=None if math.isnan(noise) else noise)
    if direction(metric) < 0:
        low, high = tuned.interval
        return judge.TunedInterval(Interval(-high, -low), tuned.approximate)
    return tuned


def _reports(one: Trials, report: pd.DataFrame, metric: str, seeds: Sequence[int]) -> Array:
    """Return the report's number of each setting by seed, larger is better; NaN where none is."""
    done = report[(report["optimizer"] == one.optimizer) & (report["state"] == "done")]
    reports = np.full((len(one.settings), len(seeds)), np.nan)
    for place, setting in enumerate(one.settings):
        values = done[list(one.columns)].to_numpy(dtype=np.float64)
        same = done[np.isclose(values, setting, rtol=1e-9, atol=0).all(axis=1)]
        by_seed = same.set_index("seed")[metric]
        reports[place] = [direction(metric) * by_seed.get(seed, math.nan) for seed in seeds]
    return reports
