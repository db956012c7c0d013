"""What README.md says: every verdict on the subject, by each outcome, at each horizon.

Studies are grouped by the question that they are part of, registered ones first. A place (a model
and dataset) of a question is one line; fresh seeds, trained after the study had been seen, have
their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from analysis.figure.differences import Column, Difference, Panel, differences
from analysis.judge.family import least_p
from analysis.judge.registered import plan_of
from analysis.judge.section import Plan, optimizer_of
from analysis.judge.verdicts import Comparison
from analysis.page.figures import colours
from analysis.page.robust import SUBJECT
from analysis.page.study import Study, span, values
from analysis.page.table import BASELINES, metric_of, only_row
from analysis.page.text import phrase
from analysis.table.build import build_table, direction
from analysis.table.model import in_percent
from analysis.table.render import badge_text

_say = partial(phrase, "front.md.j2")


class Shown(NamedTuple):
    """A study, the runs of it that are compared, and whether they are fresh seeds of it."""

    study: Study
    runs: pd.DataFrame
    fresh: bool = False


@dataclass(frozen=True)
class Verdict:
    """The subject against a baseline by one outcome; ``decidable``: its seeds can give one."""

    outcome: str
    baseline: str
    comparison: Comparison
    decidable: bool

    @property
    def difference(self) -> str:
        """The mean difference: "+0.31" points of an accuracy, "+0.038" of another outcome."""
        number = self.comparison.difference
        return f"{100 * number:+.2f}" if in_percent(self.outcome) else f"{number:+.3f}"


@dataclass(frozen=True)
class Horizon:
    """One study at one place: its runs trained for ``epochs``, and have ``seeds``."""

    study: str
    epochs: str
    seeds: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Line:
    """One place of a question, ``fresh`` for fresh seeds; its primary outcome is the first."""

    question: str
    place: str
    fresh: bool
    outcomes: tuple[str, ...]
    horizons: tuple[Horizon, ...]

    @property
    def verdicts(self) -> list[Verdict]:
        """All of them."""
        return [one for horizon in self.horizons for one in horizon.verdicts]

    @property
    def registered(self) -> bool:
        """Whether any of them was."""
        return any(v.comparison.badge and v.comparison.badge.registered for v in self.verdicts)


def lines(shown: Sequence[Shown]) -> list[Line]:
    """Return what the front says, registered questions first.

    Args:
        shown: the studies in order, each followed or not by its fresh seeds.

    Raises:
        ValueError: fresh seeds are among those of the study.
    """
    _check_fresh(shown)
    found: dict[tuple[str, str, bool], list[tuple[tuple[str, ...], Horizon]]] = {}
    for one in shown:
        question = one.study.planned.study.part_of or one.study.name
        for place, outcomes, horizon in _horizons(one):
            found.setdefault((question, place, one.fresh), []).append((outcomes, horizon))
    every = [
        Line(*key, outcomes=horizons[0][0], horizons=tuple(horizon for _, horizon in horizons))
        for key, horizons in found.items()
    ]
    order = list(dict.fromkeys((one.question, one.place) for one in every))
    every.sort(key=lambda one: (order.index((one.question, one.place)), one.fresh))
    registered = {one.question for one in every if one.registered}
    return sorted(every, key=lambda one: one.question not in registered)


def _check_fresh(shown: Sequence[Shown]) -> None:
    first = {one.study.name: one for one in shown if not one.fresh}
    for one in shown:
        known = first.get(one.study.name)
        if one.fresh and known and (both := set(one.runs["seed"]) & set(known.runs["seed"])):
            raise ValueError(
                f"{one.study.archive}: seed {min(both)} is in {known.study.archive} too, so it is"
                " not fresh"
            )


def _horizons(one: Shown) -> list[tuple[str, tuple[str, ...], Horizon]]:
    """Return the place, outcomes and verdicts of each place in which the subject is compared."""
    if one.runs.empty:
        return []
    # What one outcome judges is one family, as in the study's own section (page.table.results).
    by_place = one.runs.groupby(["dataset", "model"], dropna=False)
    primary = by_place["id"].transform(lambda ids: metric_of(one.runs.loc[ids.index]))
    judging = partial(plan_of, one.study.name, study=one.study.planned.study,
                      looks=1 if one.fresh else None)  # fmt: skip
    found = []
    for metric in sorted(set(primary)):
        runs = one.runs[primary == metric]
        other = {"test/accuracy": "test/loss", "test/loss": "test/accuracy"}[metric]
        by_column: dict[str, list[Verdict]] = {}
        for outcome in (metric, other):
            for column, verdict in _verdicts(runs, outcome, judging):
                by_column.setdefault(column, []).append(verdict)
        for column, verdicts in by_column.items():
            dataset, _, model = column.partition("/")
            here = runs[(runs["dataset"] == dataset) & (runs["model"] == model)]
            own = here[here["optimizer"] == SUBJECT]
            outcomes = tuple(dict.fromkeys(verdict.outcome for verdict in verdicts))
            horizon = Horizon(
                one.study.name, " or ".join(values(own, "config.trainer.epochs")),
                span([int(seed) for seed in own["seed"]]), tuple(verdicts),
            )  # fmt: skip
            found.append((f"{model} / {dataset}", outcomes, horizon))
    return found


def _verdicts(
    runs: pd.DataFrame, outcome: str, judging: Callable[[str], Plan]
) -> list[tuple[str, Verdict]]:
    """Return the verdicts by one outcome on the subject's only row, and in which column."""
    if outcome not in runs or not runs[outcome].notna().any():
        return []
    labels = build_table(runs, metric=outcome).rows
    baselines = tuple(label for name in BASELINES if (label := only_row(labels, name)))
    subject = only_row(labels, SUBJECT)
    if not baselines or subject is None:
        return []
    plan = judging(outcome)
    table = build_table(runs, metric=outcome, baseline=baselines, plan=plan)
    row = table.cells[table.rows.index(subject)]
    return [
        (column, Verdict(outcome, optimizer_of(name), one, _able(plan, one)))
        for column, cell in zip(table.columns, row, strict=True)
        for name, one in zip(baselines, cell.comparisons, strict=True)
        if one is not None and one.n > 1
    ]


def _able(plan: Plan, one: Comparison) -> bool:
    return plan.looks * least_p(one.n) <= plan.level


def text(these: Sequence[Line]) -> str:
    """Return the Markdown; empty where the subject is compared nowhere."""
    if not these:
        return ""
    badge = _common(these)
    able = [line for line in these if any(one.decidable for one in line.verdicts)]
    shown = [
        {"question": line.question, "place": line.place, "fresh": line.fresh,
         "primary": line.outcomes[0], "badge": "" if badge else _common([line]),
         "horizons": [horizon for horizon in line.horizons if _decidable(horizon)],
         "too_few": [horizon for horizon in line.horizons if not _decidable(horizon)],
         "against": _against(line, badged=not _common([line]))}
        for line in able
    ]  # fmt: skip
    return _say("front", SUBJECT, shown, badge, [line for line in these if line not in able])


def _common(these: Sequence[Line]) -> str:
    """Return the badge that all their verdicts have; empty where they differ."""
    badges = {badge_text(one.comparison) for line in these for one in line.verdicts}
    return badges.pop() if len(badges) == 1 else ""


def _decidable(horizon: Horizon) -> bool:
    return any(one.decidable for one in horizon.verdicts)


def _against(line: Line, *, badged: bool) -> list[dict[str, Any]]:
    """Return for each baseline what each outcome says, horizons of one verdict together."""
    found: dict[str, dict[str, dict[tuple[str, str], list[Any]]]] = {}
    for horizon in line.horizons:
        for one in horizon.verdicts:
            if one.decidable:
                key = (one.comparison.verdict, badge_text(one.comparison) if badged else "")
                outcomes = found.setdefault(one.baseline, {})
                at = outcomes.setdefault(one.outcome, {}).setdefault(key, [])
                at.append((horizon.epochs, one.difference))
    return [
        {"baseline": baseline, "outcomes": [
            {"name": outcome, "verdicts": [verdict for verdict, _ in verdicts],
             "at": [(*key, at) for key, at in verdicts.items()]}
            for outcome, verdicts in outcomes.items()
        ]}
        for baseline, outcomes in found.items()
    ]  # fmt: skip


def drawn(these: Sequence[Line]) -> Figure:
    """Return the figure: the subject's differences from each baseline, the better to the right."""
    outcomes = list(dict.fromkeys(outcome for line in these for outcome in line.outcomes))
    columns = [
        Column(_say("column", name, in_percent(name)), direction(name)) for name in outcomes
    ]  # fmt: skip
    places: dict[tuple[str, str], list[tuple[Horizon, bool]]] = {}
    for line in these:  # fresh seeds stand beside the first ones
        rows = places.setdefault((line.question, line.place), [])
        rows += [(horizon, line.fresh) for horizon in line.horizons]
    panels = [
        Panel(
            _say("panel", *place), [_say("row", horizon, fresh) for horizon, fresh in rows],
            [[one for k, (horizon, _) in enumerate(rows) for one in _dots(k, horizon, outcome)]
             for outcome in outcomes],
        )
        for place, rows in places.items()
    ]  # fmt: skip
    title, detail = _say("title", SUBJECT), _say("detail")
    return differences(panels, columns, colours([]), title=title, detail=detail)


def _dots(row: int, horizon: Horizon, outcome: str) -> list[Difference]:
    scale = 100.0 if in_percent(outcome) else 1.0
    return [
        Difference(
            row, one.baseline, scale * one.comparison.difference,
            scale * one.comparison.interval.low, scale * one.comparison.interval.high,
            one.comparison.verdict != "undecided",
        )
        for one in horizon.verdicts if one.outcome == outcome
    ]  # fmt: skip
