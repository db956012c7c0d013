"""Maps of settings: report runs of one optimizer that differ in what no tuning chose.

A study that tries alpha x damping says nothing of the optimizer as such: its runs share no row with
others and no seed is averaged over two settings. Each setting is shown at the best of the learning
rates that were tried with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from analysis.page.budget import Budget, Place
from analysis.page.table import devices_of, metric_of
from analysis.table.build import build_table
from analysis.table.model import Cell, Run, Table, assign_rows, distinguishing, order, text
from analysis.table.select import records
from analysis.table.timing import SECONDS

OWN = "config.optimizer."
_RATE = f"{OWN}lr"
# No axes: rates are chosen among, and a measured file that was measured anew is no other setting.
_NO_AXES = (_RATE, f"{OWN}exponents")
_PLACE = ["dataset", "model", "optimizer"]


@dataclass(frozen=True)
class Setting:
    """One setting at the best of its learning rates.

    ``values`` are those of the map's axes; ``also`` is what else tells it apart, else empty.
    ``cell`` is that of the rate; ``diverged`` counts the diverged runs of all its rates.
    ``rate`` is None where no rate has a finished run, or there are no rates; ``end`` is 1 or -1
    where it is the largest or the least of several tried with it, ``tried`` how many were. ``run``
    is any of its runs.
    """

    values: tuple[Any, ...]
    also: str
    cell: Cell
    diverged: int
    rate: float | None
    end: int
    tried: int
    run: Run


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
    def best(self) -> Setting | None:
        """The setting with the best mean, among those with every seed where there are any."""
        return _best(self.settings, self.table.metric)


def axes_of(runs: pd.DataFrame, budgets: Mapping[Place, Budget]) -> dict[Place, tuple[str, ...]]:
    """Return which optimizers have a map, and its axes: settings that differ and were not tuned.

    A learning rate alone makes no map, nor do files of exponents: their rows stand in the table of
    results.

    Args:
        runs: the report runs.
        budgets: what tuning has searched.
    """
    found: dict[Place, tuple[str, ...]] = {}
    for key, group in runs[runs["variant"].notna()].groupby(_PLACE, sort=True):
        dataset, model, optimizer = map(str, key)
        place = (dataset, model, optimizer)
        tuned = budgets.get(place, Budget()).keys
        differing = distinguishing(records(group, SECONDS), _PLACE)
        axes = [n for n in differing if n.startswith(OWN) and n not in (*_NO_AXES, *tuned)]
        if axes:
            # Words first, then few numbers: the last axis goes along the columns of a table.
            found[place] = tuple(sorted(axes, key=partial(_width, group)))
    return found


def _width(runs: pd.DataFrame, name: str) -> tuple[bool, int, str]:
    numbers = not any(isinstance(value, str) for value in runs[name])
    return numbers, runs[name].nunique(dropna=False), name


def of_places(runs: pd.DataFrame, places: Iterable[Place]) -> pd.Series[bool]:
    """Return which of ``runs`` are of one of ``places``."""
    return pd.Series(pd.MultiIndex.from_frame(runs[_PLACE]).isin(list(places)), runs.index)


def build(runs: pd.DataFrame, place: Place, axes: tuple[str, ...]) -> Map:
    """Return the map of one optimizer.

    Args:
        runs: the report runs, those of other places too.
        place: dataset, model, optimizer.
        axes: as `axes_of` gives them.
    """
    own = runs[of_places(runs, [place]) & runs["variant"].notna()]
    varied = _RATE in own and own[_RATE].notna().all()
    cols = [_RATE] if varied else ["model"]
    metric, validation = metric_of(own), metric_of(own, "val")
    table = build_table(own, metric=metric, rows=axes, cols=cols)
    known = validation in own and own.loc[own["state"] == "done", validation].notna().all()
    chooser = build_table(own, metric=validation, rows=axes, cols=cols) if known else table
    found = records(own, metric)
    keys, labels = assign_rows(found, axes, cols)
    rates = tuple(sorted(set(own[_RATE]))) if varied else ()
    settings = []
    for key, cells, chosen in zip(labels, table.cells, chooser.cells, strict=True):
        at = max(range(len(cells)), key=lambda j: (*_merit(chosen[j], chooser.metric), -j))
        mine = [run for run, its in zip(found, keys, strict=True) if its == key]
        tried = [one for one, cell in zip(rates, cells, strict=False) if cell.n + cell.diverged]
        rate = rates[at] if varied and cells[at].n > 0 else None
        settings.append(
            Setting(
                tuple(mine[0][name] for name in axes),
                " ".join(f"{name}={text(value)}" for name, value in key[1:]),
                cells[at],
                diverged=sum(cell.diverged for cell in cells),
                rate=rate,
                end=0 if rate is None else _end(rate, tried),
                tried=len(tried),
                run=mine[0],
            )
        )  # fmt: skip
    settings.sort(key=lambda one: ([order(value) for value in one.values], one.also))
    devices = devices_of(found)
    return Map(*place, axes, tuple(settings), rates, table, chooser.metric, devices)


def _end(rate: float, tried: Sequence[float]) -> int:
    """Return 1 for the largest rate tried with a setting, -1 for the least; 0 for an only one."""
    return (rate == max(tried)) - (rate == min(tried))


def _merit(cell: Cell, metric: str) -> tuple[bool, bool, float]:
    """Return what a best cell has most of: any run, every seed, and a good mean."""
    if not cell.n or math.isnan(cell.mean):
        return False, False, 0.0
    sign = 1 if metric.endswith("accuracy") else -1
    return True, cell.n == cell.expected, sign * cell.mean


def _best(settings: tuple[Setting, ...], metric: str) -> Setting | None:
    known = [one for one in settings if one.cell.n]
    return max(known, key=lambda one: _merit(one.cell, metric), default=None)
