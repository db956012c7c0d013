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
from analysis.page.figures import colours
from analysis.page.table import metric_of
from analysis.page.text import phrase, render
from analysis.page.trials import EPOCHS, Trials, at_usual_length, noise_of, trials_of
from analysis.table.build import direction
from analysis.table.model import in_percent
from bench.table_writer import Table, write

Array = NDArray[np.float64]
_BANDS = 3  # lines at most whose bands can be seen apart
HEADER = ("optimizer", "best setting", "score", "selected again", "beside it", "edge")


def rows(trials: Sequence[Trials], metric: str, noise: float) -> list[tuple[str, ...]]:
    """Return the table of `HEADER`, a row for each of ``trials``.

    ``noise``: of a run, for trials of one seed; NaN where it is not known.
    """
    scale, digits = (100.0, 2) if in_percent(metric) else (1.0, 4)
    table = []
    for one in trials:
        best, scores = judge.winner(one.scores), scale * judge.setting_scores(one.scores)
        if not math.isfinite(scores[best]):
            table.append((one.optimizer, *["–"] * (len(HEADER) - 1)))
            continue
        beside = [
            f"{key} {', '.join(_apart(scores, best, at, digits) for at in sides)}"
            for key, sides in zip(one.keys, judge.neighbours(one.settings, best), strict=True)
        ]
        sides = zip(one.keys, judge.edges(one.settings, best), strict=True)
        edge = [f"{'high' if side > 0 else 'low'} {key}" for key, side in sides if side]
        score = f"{direction(metric) * scores[best]:.{digits}f}"
        table.append((
            one.optimizer, one.text(best), score, _again(one, best, noise),
            "; ".join(beside) or "–", ", ".join(edge) or "no",
        ))  # fmt: skip
    return table


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
    errors = []
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
            every = Trials(
                name, one.columns, np.array(settings), scores[1][:, None], longest.epochs
            )
            errors.append({
                "optimizer": name, "short": f"{one.epochs:g}", "long": f"{longest.epochs:g}",
                "chosen": every.text(error.short), "best": every.text(error.long),
                "loss": f"{scale * error.loss:.{digits}f}" if math.isfinite(error.loss) else "",
            })  # fmt: skip
    return errors


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
    shown = tuning[tuning[EPOCHS] == usual[0].epochs]
    drawn = figure(usual, metric, f"{model} on {dataset}, tuning", circumstances(shown))
    percent = 100.0 if in_percent(metric) else 1.0
    return Selection(
        dataset, model, metric, rows(usual, metric, noise), drawn, transfers(trials, metric),
        max(one.scores.shape[1] for one in usual), percent * noise,
    )  # fmt: skip


def text(chosen: Selection) -> str:
    """Return how the table was made and what transfers cost, as Markdown."""
    return phrase("study.md.j2", "selection", chosen)


def html(runs: pd.DataFrame, sweep: str | None) -> str:
    """Return the section of the HTML report, empty without tuning runs.

    Args:
        runs: all that were read, those of the sweep <sweep>_tune among them.
        sweep: the sweep of the report; None for all.
    """
    names = runs["sweep"].fillna("").astype(str)
    of_tuning = names == f"{sweep}_tune" if sweep else names.str.endswith("_tune")
    report = runs[names == sweep] if sweep else runs[~of_tuning]
    sections = []
    for _, here in runs[of_tuning].groupby(["dataset", "model"], sort=True):
        one = selection(here, report, metric_of(here, "val"))
        if one is not None:
            sections.append((one, "" if one.figure is None else svg(one.figure)))
    return render("selection.html.j2", sections=sections, header=HEADER) if sections else ""
