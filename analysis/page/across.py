"""Optimizers across tasks: runs become sections, and the aggregate of all of them a table.

The rules are in `analysis.judge.across`. What a section is judged by is its study's registered
outcome, else the loss of language models and the accuracy of others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figure.across import ranks_and_profiles
from analysis.judge.across import (
    DECLARED,
    RESAMPLES,
    Aggregate,
    Array,
    MeanRank,
    NoSectionError,
    Section,
    aggregate,
    performance_profile,
)
from analysis.judge.verdicts import Seeds
from analysis.page.figures import colours
from analysis.page.table import metric_of
from analysis.page.text import phrase
from analysis.run.frame import prepared
from analysis.stats import Interval
from analysis.table.build import build_table, direction
from analysis.table.grid import by_seed
from analysis.table.model import in_percent
from analysis.table.render import NOTHING
from analysis.table.select import records
from analysis.table.targets import WITHHELD, Histories
from bench.registration import find
from bench.table_writer import Table, write

_HORIZON = "config.trainer.epochs"
_LOSS = "test/loss"
_QUALITY = np.geomspace(1, 2, 200)
_TARGET = np.geomspace(1, 4, 200)
_say = partial(phrase, "across.md.j2")


@dataclass(frozen=True)
class Profile:
    """The share [methods, ratios] of sections in which a method is within a factor of the best.

    ``count``: of how many sections.
    """

    ratios: Array
    shares: Array
    count: int


@dataclass(frozen=True)
class Across:
    """What all sections say together; ``target`` is None where no section has times to compare.

    ``caveats``: what must be said beside the ranks; ``notes``: how they were made.
    """

    found: Aggregate
    quality: Profile
    target: Profile | None
    measure: str
    caveats: tuple[str, ...]
    notes: tuple[str, ...]


class Source(NamedTuple):
    """Runs of `analysis.runs.load_runs`, and where their histories are found.

    With histories the target is the median final value of the first method, so that it only just
    arrives; without, it is the runs' own.
    """

    runs: pd.DataFrame
    histories: Histories | None = None


def across(
    sources: Sequence[Source], methods: Sequence[str] = DECLARED, measure: str = "step"
) -> Across:
    """Return the aggregate and the profiles of the sections in some sources.

    Args:
        sources: tuning runs and the like are left out.
        methods: the optimizers that are ranked among each other.
        measure: of reaching the target: "step", "epoch", "seconds" or "flops".

    Raises:
        NoSectionError: no section has runs of all methods.
        ValueError: as `analysis.judge.across.aggregate`.
    """
    parts = [(section, one) for source in sources for section, one in _parts(source)]
    by_loss = [section for source in sources for section, _ in _parts(source, _LOSS)]
    found = aggregate([section for section, _ in parts], methods)
    own = {id(section): source for section, source in parts}
    costs = np.array([_error(one, methods) for one in found.sections]).T
    shares = performance_profile(costs, _QUALITY, found.weights)
    target, left_out = _to_target(found, [own[id(one)] for one in found.sections], measure)
    notes = [
        _say("sections", [_described(one, w) for one, w in _weighted(found)], list(methods)),
        _say("intervals", RESAMPLES, found.tasks),
    ]
    notes += [_say("beside", len(methods) + 1)] if found.others else []
    if found.left_out:
        lacking = [(_name(one), absent) for one, absent in found.left_out]
        notes.append(_say("left_out", lacking, list(methods)))
    several = [(_name(one), one.several) for one in found.sections if one.several]
    notes += [_say("several", several)] if several else []
    notes += left_out
    registered = sum(find(one.name) is not None for one in found.sections)
    caveats = [_say("registered", registered, len(found.sections))]
    if any(one.outcome != _LOSS for one in found.sections):
        caveats.append(_by_loss(by_loss, methods))
    quality = Profile(_QUALITY, shares, len(found.sections))
    return Across(found, quality, target, measure, tuple(caveats), tuple(notes))


def _by_loss(sections: Sequence[Section], methods: Sequence[str]) -> str:
    """Return what the ranks would be by loss; it is not the aggregate, but what that hides."""
    try:
        found = aggregate(sections, methods)
    except NoSectionError:
        return _say("no_loss", _LOSS)
    return _say("by_loss", _LOSS, [(one.method, f"{one.rank:.2f}") for one in found.ranks])


def _parts(source: Source, by: str | None = None) -> list[tuple[Section, Source]]:
    """Return the sections, with their runs: each sweep at each dataset, model and horizon.

    Args:
        source: the runs of all.
        by: the outcome; None: each section's primary one.
    """
    runs = source.runs[~prepared(source.runs) & source.runs["variant"].notna()]
    keys = ["sweep", "dataset", "model", *([_HORIZON] if _HORIZON in runs else [])]
    parts = []
    for (of, dataset, model, *_), here in runs.groupby(keys, dropna=False, sort=True):
        sweep = of if isinstance(of, str) else None
        outcome = by or _primary(sweep, here)
        numbers: dict[str, Seeds] = {}
        several: list[str] = []
        for name, own in here.groupby("optimizer", sort=True):
            if own["variant"].nunique() > 1:
                several.append(str(name))
                continue
            values = {
                seed: None if value is None or not math.isfinite(value) else value
                for seed, value in by_seed(records(own, outcome), outcome).items()
            }
            numbers |= {str(name): values} if values else {}
        section = Section(
            sweep or "no study", f"{model} / {dataset}", _epochs(here),
            outcome, direction(outcome), numbers, tuple(several),
        )  # fmt: skip
        parts.append((section, Source(here, source.histories)))
    return parts


def _epochs(runs: pd.DataFrame) -> float:
    return float(runs[_HORIZON].iloc[0]) if _HORIZON in runs else math.nan


def _primary(sweep: str | None, runs: pd.DataFrame) -> str:
    registration = find(sweep) if sweep else None
    return registration.plan.outcome if registration else metric_of(runs)


def _error(section: Section, methods: Sequence[str]) -> Array:
    """Return each method's mean error [methods]: what is lacking to 1 of an accuracy, or a loss."""
    return np.asarray((section.costs(methods) + (section.direction > 0)).mean(axis=1))


def _to_target(
    found: Aggregate, sources: Sequence[Source], measure: str
) -> tuple[Profile | None, list[str]]:
    """Return the profile of what reaching the target took, and which sections it leaves out."""
    metric = f"target/{measure}"
    costs, counts, notes = [], [], []
    for (section, weight), source in zip(_weighted(found), sources, strict=True):
        own = source.runs[source.runs["optimizer"].isin(found.methods)]
        asked: Any = {}
        if source.histories:
            asked = {"target": "auto", "baseline": found.methods[:1], "histories": source.histories}
        try:
            table = build_table(own, metric=metric, **asked)
        except ValueError as error:  # no run has a target, or seconds cannot be compared
            notes.append(_say("no_profile", _name(section), str(error)))
            continue
        cells = {label: line[0] for label, line in zip(table.rows, table.cells, strict=True)}
        took = [cells[name].mean if name in cells else math.nan for name in found.methods]
        if any(map(math.isnan, took)):
            withheld = [note.partition(WITHHELD)[2] for note in table.notes if WITHHELD in note]
            reason = withheld[0] if withheld else _say("no_times")
            notes.append(_say("no_profile", _name(section), reason))
            continue
        costs.append(took)
        counts.append(weight)
    if not costs:
        return None, notes
    shares = performance_profile(np.array(costs).T, _TARGET, counts)
    return Profile(_TARGET, shares, len(costs)), notes


def _weighted(found: Aggregate) -> list[tuple[Section, float]]:
    return list(zip(found.sections, found.weights, strict=True))


def _name(section: Section) -> str:
    return f"{section.name} ({section.task})"


def _described(section: Section, weight: float) -> dict[str, object]:
    seeds = [len(of_method) for of_method in section.numbers.values()]
    return {
        "name": section.name, "task": section.task, "horizon": section.horizon,
        "outcome": section.outcome, "percent": 100 * weight, "seeds": max(seeds),
    }  # fmt: skip


def table(one: Across, *, markdown: bool = False) -> Table:
    """Return the aggregate as a table, its notes below it."""
    found = one.found
    names = [section.name for section in found.sections]
    header = ["optimizer", "mean rank", "of", "95 %, seeds", "95 %, seeds and tasks", "tasks"]
    header += [
        section.name if names.count(section.name) == 1 else _name(section)
        for section in found.sections
    ]
    rows = [_row(each, found.tasks) for each in (*found.ranks, *found.others)]
    return Table(header, rows, notes=() if markdown else (*one.caveats, *one.notes))


def _row(each: MeanRank, tasks: int) -> list[str]:
    ranks = [NOTHING if math.isnan(rank) else f"{rank:g}" for rank in each.by_section]
    return [
        each.method, f"{each.rank:.2f}", str(each.of), _interval(each.over_seeds),
        _interval(each.over_tasks), f"{each.tasks} of {tasks}", *ranks,
    ]  # fmt: skip


def _interval(ends: Interval) -> str:
    return NOTHING if math.isnan(ends.low) else f"[{ends.low:.2f}, {ends.high:.2f}]"


def drawn(one: Across) -> Figure:
    """Return the figure: ranks, and the profiles of error and of what the target took."""
    found, places = one.found, colours(one.found.methods)
    kinds = {"error" if in_percent(each.outcome) else each.outcome for each in found.sections}
    order = [found.methods.index(each.method) for each in found.ranks]
    shown = [(_say("axis", " or ".join(sorted(kinds)), one.quality.count), one.quality)]
    if one.target is not None:
        shown.append((_say("axis", f"{one.measure}s to the target", one.target.count), one.target))
    return ranks_and_profiles(
        found.ranks, [places[each.method] for each in found.ranks],
        [(words, each.ratios, each.shares[order]) for words, each in shown],
        title=_say("title", found.tasks), detail=_say("detail", len(found.sections)),
    )  # fmt: skip


def section(one: Across, figure: str) -> str:
    """Return the section of docs/RESULTS.md.

    Args:
        one: what it says.
        figure: Markdown that shows `drawn`.
    """
    return _say("section", one, write(table(one, markdown=True), "markdown"), figure)
