"""Verdicts of a study as numbers and names: of its rows, and of the pairs that its file asks for.

study:
  contrasts: [[spectral_newton_measured, spectral_newton]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from analysis.judge.section import Asked, Missing, optimizer_of
from analysis.judge.verdicts import VERDICTS, Comparison, Verdict
from analysis.page import robust
from analysis.page.budget import usual
from analysis.page.robust import SUBJECT, Said
from analysis.page.study import Output, Study, values
from analysis.page.table import Results, Row, p_words
from analysis.page.text import phrase
from analysis.table.model import in_percent
from analysis.table.render import NOTHING, badge_text, difference, value
from bench.table_writer import Marked, Table, write

_TEXT = "verdict.md.j2"


@dataclass(frozen=True)
class Against:
    """The subject against a baseline; ``difference`` None: not compared, ``p`` None: not tested.

    ``said`` is what other ways to ask it say, None where nobody asked.
    """

    name: str
    difference: str | None
    relation: str
    p: str | None
    badge: str = ""
    said: Said | None = None


@dataclass(frozen=True)
class Others:
    """Which other rows are better or worse than a baseline, equivalent to it or undecided.

    ``seeds`` are the fewest and the most of the undecided, None where all have as many.
    """

    baseline: str
    better: list[str]
    worse: list[str]
    equivalent: list[str]
    undecided: list[str]
    seeds: tuple[int, int] | None


@dataclass(frozen=True)
class Answer:
    """What one dataset and model say; ``label`` is the subject's, None where it has no row.

    ``trials`` is None where budgets differ; ``ratio``: of an epoch's time to the first baseline's.
    """

    model: str
    dataset: str
    epochs: str
    n: int
    expected: int
    trials: int | None
    devices: str
    metric: str
    label: str | None
    value: str
    against: list[Against]
    ratio: float | None
    others: list[Others]

    @property
    def percent(self) -> bool:
        """Whether the metric is an accuracy."""
        return in_percent(self.metric)

    @property
    def loss(self) -> bool:
        """Whether the metric is a loss."""
        return self.metric.endswith("loss")


def subject(found: Results) -> Row | None:
    """Return the subject's row; None where it has no result, or is a map of many settings."""
    rows = [row for row in found.rows if row.optimizer == SUBJECT and row.cell.n]
    return rows[0] if len(rows) == 1 else None


def answer(found: Results, study: Study, asked: Sequence[robust.Asked] = ()) -> Answer | None:
    """Return what the rows of one dataset and model say; None where nothing is compared."""
    row = subject(found)
    others = [] if row is None and _is_mapped(found) else _others(found, row)
    if row is None and not others:
        return None
    about = row or next(one for one in found.rows if one.optimizer == others[0].baseline)
    here = study.runs[
        (study.runs["dataset"] == found.dataset) & (study.runs["model"] == found.model)
    ]
    budgets = [one.budget for one in found.rows]
    named = found.baselines if row else ()
    return Answer(
        model=found.model, dataset=found.dataset, metric=found.table.metric,
        epochs=" or ".join(values(here, "config.trainer.epochs")),
        n=about.cell.n, expected=about.cell.expected, devices=", ".join(about.devices),
        trials=usual(budgets)[0] if len({one.cost for one in budgets}) == 1 else None,
        label=row.label if row else None, value=value(about.cell, found.table),
        against=[_against(row, name, found.table.metric, asked) for name in named if row],
        ratio=_ratio(found, row) if row else None,
        others=[one for one in others if row is None or one.baseline == found.baselines[0]],
    )  # fmt: skip


def sentences(found: Results, study: Study, asked: Sequence[robust.Asked] = ()) -> str:
    """Return what one dataset and model of a study say; empty where nothing is compared.

    ``asked``: the panels of the subject's comparisons, which stand beside their verdicts.
    """
    one = answer(found, study, asked)
    return phrase(_TEXT, "sentences", one) if one else ""


def short(found: Results, asked: Sequence[robust.Asked] = ()) -> list[str]:
    """Return the same in few words, without numbers; empty where nothing was tested."""
    row = subject(found)
    if row is None:
        others = [] if _is_mapped(found) else _others(found, None)[:1]
        return [phrase(_TEXT, "others", one) for one in others]
    names: dict[str, list[str]] = {}
    for name in found.baselines:
        one = row.against.get(name)
        if one is not None and one.n > 1:
            names.setdefault(relation(one.verdict), []).append(name)
    if not names:
        return []
    first = [one for one in _others(found, row) if one.baseline == found.baselines[0]]
    return [
        phrase(_TEXT, "relations", f"`{row.label}`", names).strip() + _but(asked),
        *(f"others {phrase(_TEXT, 'others', one)}" for one in first),
    ]


def _but(asked: Sequence[robust.Asked]) -> str:
    """Return what other outcomes of the test split say against the verdicts."""
    against: dict[str, dict[str, list[str]]] = {}
    for panel in (each.panel for each in asked):
        for check in (*panel.those("opposite"), *panel.those("differs")):
            if check.outcome.startswith("test/") and check.verdict in ("better", "worse"):
                relations = against.setdefault(check.name, {})
                relations.setdefault(relation(check.verdict), []).append(panel.other)
    return "".join(phrase(_TEXT, "but", name, those).rstrip() for name, those in against.items())


def _is_mapped(found: Results) -> bool:
    return sum(row.optimizer == SUBJECT and row.cell.n > 0 for row in found.rows) > 1


def _against(row: Row, name: str, metric: str, asked: Sequence[robust.Asked]) -> Against:
    one = row.against.get(name)
    if one is None or one.n == 0:
        return Against(name, None, "", None)
    p = p_words(one.decisive_p) if one.n > 1 else None
    panels = [each.panel for each in asked]
    panel = next((p for p in panels if (p.method, p.other) == (row.optimizer, name)), None)
    said = None if panel is None else robust.said(panel)
    badge = badge_text(one) if one.badge else ""
    return Against(name, difference(one, metric), relation(one.verdict), p, badge, said)


_RELATIONS: dict[Verdict, str] = {
    "better": "better than", "worse": "worse than", "equivalent": "equivalent to",
    "undecided": "undecided against",
}  # fmt: skip


def relation(verdict: Verdict) -> str:
    """Return the verdict with its preposition, such as "better than"."""
    return _RELATIONS[verdict]


def _ratio(found: Results, row: Row) -> float | None:
    """Return how much longer an epoch takes than with the first baseline; None: not known."""
    seconds = {one.label: one.cell.seconds for one in found.rows}
    base = seconds.get(found.baselines[0]) if found.baselines else None
    if not row.cell.seconds or not base or not median(base) > 0:
        return None
    return median(row.cell.seconds) / median(base)


def _others(found: Results, left_out: Row | None) -> list[Others]:
    """Return how the rows compare with each baseline, where any does."""
    every = []
    for name in found.baselines:
        rows: dict[Verdict, list[str]] = {}
        seeds: set[int] = set()
        for row in found.rows:
            one = row.against.get(name) if row.optimizer != name else None
            if row is not left_out and one is not None and one.n > 1:
                rows.setdefault(one.verdict, []).append(row.label)
                seeds |= {one.n} if one.verdict == "undecided" else set()
        if rows:
            span = (min(seeds), max(seeds)) if len(seeds) > 1 else None
            better, worse, equivalent, undecided = (rows.get(word, []) for word in VERDICTS)
            every.append(Others(name, better, worse, equivalent, undecided, span))
    return every


def section(found: Sequence[Results], out: Output) -> str:
    """Return the Markdown of the pairs that a study asks for; answers go to ``out``.

    Empty where it asks for none.
    """
    sections = {id(one.table.section): one.table for one in found if one.table.section}
    several = len({(one.dataset, one.model) for one in found}) > 1
    asked: list[_Asked] = []
    missing: dict[Missing, None] = {}
    for table in sections.values():
        assert table.section is not None
        missing |= dict.fromkeys(table.section.missing)
        for pair, one in table.section.contrasts.items():
            dataset, _, model = table.columns[pair.column].partition("/")
            there = f"on {model} / {dataset} " if several else ""
            asked.append(_Asked(pair, there, table.metric, one))
    if not asked and not missing:
        return ""
    out.answers += _short(asked)
    metrics = sorted({one.metric for one in asked})
    units = [{"name": name, "percent": in_percent(name)} for name in metrics]
    shown = {"table": _table(asked), "metrics": units} if asked else None
    return phrase(_TEXT, "contrasts", shown, list(missing))


class _Asked(NamedTuple):
    """A comparison asked for; ``there`` says where, if that must be said."""

    pair: Asked
    there: str
    metric: str
    comparison: Comparison

    @property
    def who(self) -> str:
        return f"{self.there}`{optimizer_of(self.pair.method)}`"

    @property
    def other(self) -> str:
        return optimizer_of(self.pair.other)


def _table(asked: Sequence[_Asked]) -> str:
    rows: list[list[str | Marked]] = []
    for each in asked:
        one = each.comparison
        tested: list[str | Marked] = ["not tested", NOTHING]
        if one.n > 1:
            shown = one.verdict if one.verdict == "undecided" else Marked(one.verdict)
            tested = [shown, p_words(one.decisive_p)]
        name = f"{each.who} against `{each.other}`"
        rows.append([name, difference(one, each.metric), str(one.n), *tested, badge_text(one)])
    header = ["comparison", "difference [95 %]", "seeds", "verdict", "corrected p", "badge"]
    return write(Table(header, rows, align="lrrlrl", markdown=True), "markdown")


def _short(asked: Sequence[_Asked]) -> list[str]:
    """Return each method's verdicts in words: "`a` is better than `b`; worse than `c`"."""
    names: dict[str, dict[str, list[str]]] = {}
    for each in sorted(asked, key=lambda each: VERDICTS.index(each.comparison.verdict)):
        if each.comparison.n > 1:
            relations = names.setdefault(each.who, {})
            relations.setdefault(relation(each.comparison.verdict), []).append(each.other)
    return [phrase(_TEXT, "relations", who, those).strip() for who, those in names.items()]
