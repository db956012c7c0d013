"""What tuning chose on one dataset and model, and how much chance there was in it.

The same numbers for docs/RESULTS.md (`section`) and for the HTML report (`html`): curves of the
best of k trials, and for each optimizer the best setting, how often it is selected when trials are
resampled, and what lies beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figure.lines import Series, chart
from analysis.figure.seeds import circumstances, unit_of
from analysis.figure.style import svg
from analysis.judge import selection as judge
from analysis.page import budget
from analysis.page.figures import colours
from analysis.page.table import metric_of
from analysis.page.text import phrase, render
from analysis.table.build import direction
from analysis.table.model import in_percent
from bench.table_writer import Table, write

Array = NDArray[np.float64]
_EPOCHS = "config.trainer.epochs"
_BANDS = 3  # lines at most whose bands can be told apart
HEADER = ("optimizer", "best setting", "score", "selected again", "beside it", "edge")


@dataclass(frozen=True)
class Trials:
    """The finished trials of one optimizer at one length, by rising values.

    Attributes:
        optimizer: its name.
        keys: short names of what was searched; what only follows another is left out.
        settings: ``[k, d]``.
        scores: ``[k, s]`` by tuning seed, larger is better; NaN where a run diverged.
        epochs: of a run.
    """

    optimizer: str
    keys: tuple[str, ...]
    settings: Array
    scores: Array
    epochs: float

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
        columns = _free(runs, budget.searched(runs))
        seeds = sorted(runs["seed"].unique())
        for epochs, alike in runs.groupby(_EPOCHS, sort=True):
            rows = []
            for _, trial in alike.groupby("variant", sort=True):
                scores = _scores(trial, metric, seeds)
                if scores is not None:
                    rows.append((tuple(trial[columns].iloc[0].astype(float)), scores))
            if rows:
                settings, table = zip(*sorted(rows, key=lambda row: row[0]), strict=True)
                used = ~np.isnan(np.array(table)).all(axis=0) | (len(seeds) == 1)
                keys = tuple(budget.short(column) for column in columns)
                every.append(Trials(
                    str(optimizer), keys, np.array(settings).reshape(len(rows), len(keys)),
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
    found: list[str] = []
    for column in sorted(columns, key=lambda name: (not name.endswith(".lr"), len(name), name)):
        values = pd.to_numeric(runs[column], errors="coerce").to_numpy(dtype=np.float64)
        ratios = [values / runs[other].to_numpy(dtype=np.float64) for other in found]
        follows = any(np.ptp(ratio) <= 2e-3 * abs(ratio.mean()) for ratio in ratios)  # four digits
        if np.isfinite(values).all() and not follows:
            found.append(column)
    return found


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


def rows(trials: Sequence[Trials], metric: str, noise: float) -> list[tuple[str, ...]]:
    """Return the table of `HEADER`, a row for each of ``trials``.

    ``noise``: of a run, for trials of one seed; NaN where it is not known.
    """
    scale, digits = (100.0, 2) if in_percent(metric) else (1.0, 4)
    found = []
    for one in trials:
        best, scores = judge.winner(one.scores), scale * judge.setting_scores(one.scores)
        if not math.isfinite(scores[best]):
            found.append((one.optimizer, *["–"] * (len(HEADER) - 1)))
            continue
        beside = [
            f"{key} {', '.join(_apart(scores, best, at, digits) for at in sides)}"
            for key, sides in zip(one.keys, judge.neighbours(one.settings, best), strict=True)
        ]
        sides = zip(one.keys, judge.edges(one.settings, best), strict=True)
        edge = [f"{'high' if side > 0 else 'low'} {key}" for key, side in sides if side]
        score = f"{direction(metric) * scores[best]:.{digits}f}"
        found.append((
            one.optimizer, one.text(best), score, _again(one, best, noise),
            "; ".join(beside) or "–", ", ".join(edge) or "no",
        ))  # fmt: skip
    return found


def _apart(scores: Array, best: int, at: int | None, digits: int) -> str:
    """Return how much worse a setting beside the best is; "none" where there is none."""
    if at is None:
        return "none"
    return f"{scores[at] - scores[best]:+.{digits}f}" if math.isfinite(scores[at]) else "diverged"


def _again(one: Trials, best: int, noise: float) -> str:
    single = one.scores.shape[1] == 1
    if single and math.isnan(noise):
        return "–"
    chosen = judge.selections(one.scores, noise=noise if single else None)
    return f"{judge.frequencies(chosen, len(one.scores))[best]:.0%}".replace("%", " %")


def figure(trials: Sequence[Trials], metric: str, title: str, detail: str) -> Figure | None:
    """Return the curves of the best of k trials; None where no optimizer has two."""
    scale = direction(metric) * (100.0 if in_percent(metric) else 1.0)
    places = colours([one.optimizer for one in trials])
    series = []
    for one in trials:
        curve = judge.best_of_k(one.scores)
        middle = scale * curve.mean
        ends = np.sort([scale * curve.low, scale * curve.high], axis=0)
        low, high = ends if len(trials) <= _BANDS else (middle, middle)
        along = np.arange(1.0, len(middle) + 1)
        series.append(Series(one.optimizer, places[one.optimizer], along, middle, low, high))
    series.sort(key=lambda line: -scale * line.middle[-1])
    bands = ", band: 10 to 90 %" if len(trials) <= _BANDS else ""
    return chart(
        series, title=title, detail=f"best {metric} expected of k trials{bands}; {detail}",
        x_label="trials drawn", y_label=unit_of(metric), falling=not in_percent(metric),
    )  # fmt: skip


def transfers(trials: Sequence[Trials], metric: str) -> list[dict[str, str]]:
    """Return what choosing at a shorter length costs at the longest, for each optimizer with both.

    Of each: optimizer, the two lengths, the setting chosen at each, and the loss; "" where the
    setting chosen at the shorter length was not tried at the longer one.
    """
    scale, digits = (100.0, 2) if in_percent(metric) else (1.0, 4)
    found = []
    for name in dict.fromkeys(one.optimizer for one in trials):
        *shorter, longest = sorted(
            (one for one in trials if one.optimizer == name), key=lambda one: one.epochs
        )
        for one in shorter:
            settings = sorted({*map(tuple, one.settings), *map(tuple, longest.settings)})
            scores = [_by_setting(each, settings) for each in (one, longest)]
            if any(np.isnan(each).all() for each in scores):
                continue
            error = judge.transfer(scores[0], scores[1])
            every = Trials(name, one.keys, np.array(settings), scores[1][:, None], longest.epochs)
            found.append({
                "optimizer": name, "short": f"{one.epochs:g}", "long": f"{longest.epochs:g}",
                "chosen": every.text(error.short), "best": every.text(error.long),
                "loss": f"{scale * error.loss:.{digits}f}" if math.isfinite(error.loss) else "",
            })  # fmt: skip
    return found


def _by_setting(one: Trials, settings: Sequence[tuple[float, ...]]) -> Array:
    """Return the score of each of ``settings``; NaN where there is none, or it diverged."""
    known = dict(zip(map(tuple, one.settings), judge.setting_scores(one.scores), strict=True))
    scores = np.array([known.get(setting, math.nan) for setting in settings])
    return np.where(np.isfinite(scores), scores, np.nan)


@dataclass(frozen=True)
class Selection:
    """What is shown of one dataset and model; ``how`` says where "selected again" is from."""

    dataset: str
    model: str
    metric: str
    rows: list[tuple[str, ...]]
    figure: Figure | None
    transfers: list[dict[str, str]]
    seeds: int
    noise: float

    @property
    def percent(self) -> bool:
        """Whether scores are given in per cent."""
        return in_percent(self.metric)

    @property
    def markdown(self) -> str:
        """The table, for docs/RESULTS.md."""
        return write(Table(list(HEADER), [list(row) for row in self.rows], "llrrll"), "markdown")


def selection(tuning: pd.DataFrame, report: pd.DataFrame, metric: str) -> Selection | None:
    """Return what is to be said of the tuning runs of one dataset and model; None of nothing.

    Args:
        tuning: its tuning runs.
        report: the report runs, of any dataset and model.
        metric: what trials are scored by.
    """
    trials = trials_of(tuning, metric)
    if not trials:
        return None
    dataset, model = str(tuning["dataset"].iloc[0]), str(tuning["model"].iloc[0])
    here = report
    if len(report):
        here = report[(report["dataset"] == dataset) & (report["model"] == model)]
    usual = at_usual_length(trials)
    noise = noise_of(here, metric)
    shown = tuning[tuning[_EPOCHS] == usual[0].epochs]
    drawn = figure(usual, metric, f"{model} on {dataset}, tuning", circumstances(shown))
    percent = 100.0 if in_percent(metric) else 1.0
    return Selection(
        dataset, model, metric, rows(usual, metric, noise), drawn, transfers(trials, metric),
        max(one.scores.shape[1] for one in usual), percent * noise,
    )  # fmt: skip


def words(found: Selection) -> str:
    """Return how the table was made and what transfers cost, as Markdown."""
    return phrase("study.md.j2", "selection", found)


def html(runs: pd.DataFrame, sweep: str | None) -> str:
    """Return the section of the HTML report, empty without tuning runs.

    Args:
        runs: all that were read, those of the sweep <sweep>_tune among them.
        sweep: the sweep of the report; None for all.
    """
    names = runs["sweep"].fillna("").astype(str)
    of_tuning = names == f"{sweep}_tune" if sweep else names.str.endswith("_tune")
    report = runs[names == sweep] if sweep else runs[~of_tuning]
    found = []
    for _, here in runs[of_tuning].groupby(["dataset", "model"], sort=True):
        one = selection(here, report, metric_of(here, "val"))
        if one is not None:
            found.append((one, "" if one.figure is None else svg(one.figure)))
    return render("selection.html.j2", found=found, header=HEADER) if found else ""
