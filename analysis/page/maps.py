"""Maps of settings: report runs of one optimizer that differ in what no tuning chose.

A study that tries alpha x damping says nothing of the optimizer as such: its runs share no row with
others and no seed is averaged over two settings. Each setting is shown at the best of the learning
rates that were tried with it, then what its measured spectra are like.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figure.lines import Series, chart
from analysis.figure.seeds import unit_of
from analysis.page.budget import NOTHING, RED, Budget, Place
from analysis.page.spectra import Likeness, likeness, spectra
from analysis.page.study import Output, Study
from analysis.page.table import devices_of, metric_of
from analysis.page.text import phrase
from analysis.stats import mean, t_quantile
from analysis.table.build import build_table
from analysis.table.model import Cell, Table, assign_rows, distinguishing, in_percent, order, text
from analysis.table.select import records
from analysis.table.timing import SECONDS
from bench.table_writer import Table as WrittenTable
from bench.table_writer import write

_OWN = "config.optimizer."
_RATE = f"{_OWN}lr"
# No axes: rates are chosen among, and a measured file that was measured anew is no other setting.
_NO_AXES = (_RATE, f"{_OWN}exponents")
_PLACE = ["dataset", "model", "optimizer"]
_RADII = (2.0, 5.0)  # of the dots of the least and the largest value along a line
_say = partial(phrase, "map.md.j2")


@dataclass(frozen=True)
class Setting:
    """One setting at the best of its learning rates.

    ``name`` is "alpha=2, damping=0.1", with ``also``, what else sets it apart, if there is any;
    ``values`` are those of the map's axes. ``cell`` is that of the rate; ``diverged`` counts the
    diverged runs of all its rates. ``rate`` is None where no rate has a finished run, or there are
    no rates; ``end`` is 1 or -1 where it is the largest or the least of several tried with it,
    ``tried`` how many were. ``likeness`` is None where no spectra of its runs were measured.
    """

    name: str
    values: tuple[Any, ...]
    also: str
    cell: Cell
    diverged: int
    rate: float | None
    end: int
    tried: int
    likeness: Likeness | None

    @property
    def line(self) -> tuple[tuple[Any, ...], str]:
        """What the settings of one row of a table, and of one line of a figure, share."""
        return self.values[:-1], self.also


@dataclass(frozen=True)
class Map:
    """The settings of one optimizer on one dataset and model, in order.

    ``axes`` are columns of the runs' frame; the last one is that with the most numbers. ``table``
    has a row a setting and a column a rate of ``rates``; ``chosen_by`` is the metric by which the
    best rate was chosen; ``devices`` are those of the runs.
    """

    dataset: str
    model: str
    optimizer: str
    axes: tuple[str, ...]
    settings: tuple[Setting, ...]
    rates: tuple[float, ...]
    table: Table
    chosen_by: str
    devices: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The axes as typed."""
        return list(map(_short, self.axes))

    @property
    def percent(self) -> bool:
        """Whether results are shown in percent."""
        return in_percent(self.table.metric)

    @cached_property
    def best(self) -> Setting | None:
        """The setting with the best mean, among those with every seed where there are any."""
        known = [one for one in self.settings if one.cell.n]
        return max(known, key=lambda one: _merit(one.cell, self.table.metric), default=None)

    @cached_property
    def measured(self) -> list[Setting]:
        """The settings whose spectra were measured."""
        return [one for one in self.settings if one.likeness]

    def extreme(self, quantity: str, *, least: bool = False) -> Setting:
        """Return the measured setting with the most, or the least, of a field of `Likeness`."""
        return (min if least else max)(
            self.measured, key=lambda one: getattr(one.likeness, quantity)
        )

    @cached_property
    def pooled(self) -> float | None:
        """The standard deviation of seeds, pooled over settings and rates; None: not known."""
        cells = [cell for row in self.table.cells for cell in row if cell.n > 1]
        spreads = [cell.std for cell in cells if math.isfinite(cell.std)]
        return math.sqrt(mean([one**2 for one in spreads])) if spreads else None

    @property
    def freedom(self) -> int:
        """The degrees of freedom of ``pooled``."""
        return sum(cell.n - 1 for row in self.table.cells for cell in row if cell.n > 1)

    def half_widths(self) -> list[tuple[int, float]]:
        """Return each number of seeds, and half of the 95 % interval of a mean of so many."""
        counts = sorted({one.cell.n for one in self.settings if one.cell.n})
        half = t_quantile(self.freedom) * (self.pooled or math.nan)
        return [(count, half / math.sqrt(count)) for count in counts]

    def near(self) -> tuple[int, int]:
        """Return how many other means are within two standard errors of the best, and of how many.

        Of none where the spread of seeds is not known.
        """
        if self.pooled is None or self.best is None:
            return 0, 0
        best = self.best.cell
        others = [one.cell for one in self.settings if one is not self.best and one.cell.n]
        apart = [abs(one.mean - best.mean) / math.sqrt(1 / one.n + 1 / best.n) for one in others]
        return sum(one <= 2 * self.pooled for one in apart), len(others)

    def is_best(self, one: Setting) -> bool:
        """Return whether a setting is the best, or is as good with every seed."""
        equal = self.best is not None and one.cell.mean == self.best.cell.mean
        return equal and (one.cell.n == one.cell.expected or one is self.best)


def axes_of(runs: pd.DataFrame, budgets: Mapping[Place, Budget]) -> dict[Place, tuple[str, ...]]:
    """Return which optimizers have a map, and its axes: settings that differ and were not tuned.

    A learning rate alone makes no map, nor do files of exponents: their rows stand in the table of
    results.

    Args:
        runs: the report runs.
        budgets: what tuning has searched.
    """
    mapped: dict[Place, tuple[str, ...]] = {}
    for key, group in runs[runs["variant"].notna()].groupby(_PLACE, sort=True):
        dataset, model, optimizer = map(str, key)
        place = (dataset, model, optimizer)
        tuned = budgets.get(place, Budget()).keys
        differing = distinguishing(records(group, SECONDS), _PLACE)
        axes = [n for n in differing if n.startswith(_OWN) and n not in (*_NO_AXES, *tuned)]
        if axes:
            # Text first, then few numbers: the last axis goes along the columns of a table.
            mapped[place] = tuple(sorted(axes, key=partial(_width, group)))
    return mapped


def _width(runs: pd.DataFrame, name: str) -> tuple[bool, int, str]:
    numbers = not any(isinstance(value, str) for value in runs[name])
    return numbers, runs[name].nunique(dropna=False), name


def of_places(runs: pd.DataFrame, places: Iterable[Place]) -> pd.Series[bool]:
    """Return which of ``runs`` are of one of ``places``."""
    return pd.Series(pd.MultiIndex.from_frame(runs[_PLACE]).isin(list(places)), runs.index)


def build(
    runs: pd.DataFrame, place: Place, axes: tuple[str, ...], directions: pd.DataFrame | None = None
) -> Map:
    """Return the map of one optimizer.

    Args:
        runs: the report runs, those of other places too.
        place: dataset, model, optimizer.
        axes: as `axes_of` gives them.
        directions: of `analysis.page.spectra.spectra`.
    """
    own = runs[of_places(runs, [place]) & runs["variant"].notna()]
    varied = _RATE in own and own[_RATE].notna().all()
    cols = [_RATE] if varied else ["model"]
    metric, validation = metric_of(own), metric_of(own, "val")
    table = build_table(own, metric=metric, rows=axes, cols=cols)
    known = validation in own and own.loc[own["state"] == "done", validation].notna().all()
    chooser = build_table(own, metric=validation, rows=axes, cols=cols) if known else table
    every_run = records(own, metric)
    keys, labels = assign_rows(every_run, axes, cols)
    rates = tuple(sorted(set(own[_RATE]))) if varied else ()
    settings = []
    for key, cells, chosen in zip(labels, table.cells, chooser.cells, strict=True):
        at = max(range(len(cells)), key=lambda j: (*_merit(chosen[j], chooser.metric), -j))
        run = next(run for run, its in zip(every_run, keys, strict=True) if its == key)
        tried = [one for one, cell in zip(rates, cells, strict=False) if cell.n + cell.diverged]
        rate = rates[at] if varied and cells[at].n > 0 else None
        also = " ".join(f"{name}={text(value)}" for name, value in key[1:])
        name = ", ".join(f"{_short(axis)}={text(run[axis])}" for axis in axes)
        like = None if directions is None else likeness(directions, cells[at].run_ids, run)
        settings.append(
            Setting(
                name=f"{name} {also}".strip(), values=tuple(run[axis] for axis in axes), also=also,
                cell=cells[at], diverged=sum(cell.diverged for cell in cells), rate=rate,
                end=0 if rate is None else (rate == max(tried)) - (rate == min(tried)),
                tried=len(tried), likeness=like,
            )
        )  # fmt: skip
    settings.sort(key=lambda one: ([order(value) for value in one.values], one.also))
    devices = devices_of(every_run)
    return Map(*place, axes, tuple(settings), rates, table, chooser.metric, devices)


def _short(axis: str) -> str:
    return axis.removeprefix(_OWN)


def _merit(cell: Cell, metric: str) -> tuple[bool, bool, float]:
    """Return what a best cell has most of: any run, every seed, and a good mean."""
    if not cell.n or math.isnan(cell.mean):
        return False, False, 0.0
    sign = 1 if metric.endswith("accuracy") else -1
    return True, cell.n == cell.expected, sign * cell.mean


def sections(study: Study, places: Mapping[Place, tuple[str, ...]], out: Output) -> Iterator[str]:
    """Yield the Markdown of each map of a study.

    Args:
        study: whose report runs they are.
        places: of `axes_of`.
        out: gets the figures, and which setting is best.
    """
    done = bool((study.runs["state"] == "done").any())
    directions = spectra(study.measured) if done else None
    for place, axes in places.items():
        one = build(study.runs, place, axes, directions)
        out.answers += _say("answers", one).splitlines()
        tables = {cell: _table(one, cell) for cell in ("result", "slope", "cosines")}
        link = ""
        if (drawn := figure(one)) is not None:
            title = f"{one.model} / {one.dataset}: {one.table.metric} against the mean slope"
            name = f"{study.name}-{one.model}-{one.dataset}-{one.optimizer}-slope.svg"
            link = out.figure(name, drawn, title)
        yield _say("section", one, tables, link, RED)


def _table(mapped: Map, cell: str) -> str:
    """Return a Markdown table of a map: rows are all axes but the last, which is along the columns.

    Args:
        mapped: the map.
        cell: the macro of a setting's cell.
    """
    *names, last = mapped.names
    along = _along(mapped.settings)
    extra = any(one.also for one in mapped.settings)
    header = [*names, *(["also"] if extra else []), *(f"{last}={text(value)}" for value in along)]
    rows: dict[tuple[str, ...], dict[Any, str]] = {}
    for one in mapped.settings:
        key = (*map(text, one.values[:-1]), *([one.also] if extra else []))
        rows.setdefault(key, {})[one.values[-1]] = _say(cell, mapped, one)
    lines = [[*key, *(row.get(value, NOTHING) for value in along)] for key, row in rows.items()]
    align = "l" * (len(header) - len(along)) + "r" * len(along)
    return write(WrittenTable(header, lines, align, markdown=True), "markdown")


def _along(settings: Iterable[Setting]) -> list[Any]:
    """Return the values of the last axis, in order."""
    return sorted({one.values[-1] for one in settings}, key=order)


def figure(mapped: Map) -> Figure | None:
    """Return the result of each setting against its mean slope; None where too few are known."""
    scale = 100.0 if mapped.percent else 1.0
    known = [(one, one.likeness) for one in mapped.settings if one.likeness and one.cell.n]
    known.sort(key=lambda pair: ([order(value) for value in pair[0].values[:-1]], pair[0].also))
    along = _along(one for one, _ in known)
    lines = []
    rows = groupby(known, key=lambda pair: pair[0].line)
    for place, ((values, also), pairs) in enumerate(rows):
        members, likes = zip(*pairs, strict=True)
        middle = np.array([scale * one.cell.mean for one in members])
        at = np.array([like.slope for like in likes])
        rank = [along.index(one.values[-1]) / max(len(along) - 1, 1) for one in members]
        rings = np.array([_RADII[0] + (_RADII[1] - _RADII[0]) * one for one in rank])
        names = [f"{name}={text(v)}" for name, v in zip(mapped.names, values, strict=False)]
        label = " ".join([*names, *([also] if also else [])])
        lines.append(Series(label, place, at, middle, middle, middle, rings=rings))
    seeds = sorted({one.cell.n for one, _ in known})
    count = " or ".join(map(str, seeds)) + f" seed{'s' * (seeds != [1])}"
    return chart(
        lines, title=f"{mapped.model} on {mapped.dataset}, {mapped.optimizer}",
        detail=f"{mapped.table.metric} against the mean slope; {count}",
        y_label=unit_of(mapped.table.metric), whole=True, x_label="mean slope d ln T / d ln sigma",
    )  # fmt: skip
