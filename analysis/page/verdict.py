"""Verdicts of a study as numbers and names: of its rows, and of the pairs that its file asks for.

study:
  contrasts: [[spectral_newton_measured, spectral_newton]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import pandas as pd

from analysis.page.budget import usual
from analysis.page.study import Output, Study, values, where
from analysis.page.table import Results, Row, metric_of, p_words
from analysis.page.text import phrase
from analysis.stats import sample_std
from analysis.table.build import by_seed
from analysis.table.comparisons import Comparison, Seeds, compare, floor, guarded, how, paired
from analysis.table.model import in_percent
from analysis.table.render import NOTHING, comparison_text, difference, value
from analysis.table.select import records
from bench.table_writer import Marked, Table, write

SUBJECT = "spectral_newton"  # the optimizer that the benchmark is about
_TEXT = "verdict.md.j2"


@dataclass(frozen=True)
class Against:
    """The subject against a baseline; ``difference`` None: not compared, ``p`` None: not tested."""

    name: str
    difference: str | None
    relation: str
    p: str | None


@dataclass(frozen=True)
class Others:
    """Which other rows are better or worse than a baseline, or not shown to differ (``rest``).

    ``seeds`` are the fewest and the most of the rest, None where all have as many.
    """

    baseline: str
    better: list[str]
    worse: list[str]
    rest: list[str]
    seeds: tuple[int, int] | None


@dataclass(frozen=True)
class Verdict:
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


def verdict(found: Results, study: Study) -> Verdict | None:
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
    return Verdict(
        model=found.model, dataset=found.dataset, metric=found.table.metric,
        epochs=" or ".join(values(here, "config.trainer.epochs")),
        n=about.cell.n, expected=about.cell.expected, devices=", ".join(about.devices),
        trials=usual(budgets)[0] if len({one.cost for one in budgets}) == 1 else None,
        label=row.label if row else None, value=value(about.cell, found.table),
        against=[_against(row, name, found.table.metric) for name in named if row],
        ratio=_ratio(found, row) if row else None,
        others=[one for one in others if row is None or one.baseline == found.baselines[0]],
    )  # fmt: skip


def sentences(found: Results, study: Study) -> str:
    """Return what one dataset and model of a study say; empty where nothing is compared."""
    one = verdict(found, study)
    return phrase(_TEXT, "sentences", one) if one else ""


def short(found: Results) -> list[str]:
    """Return the same in few words, without numbers; empty where nothing was tested."""
    row = subject(found)
    if row is None:
        others = [] if _is_mapped(found) else _others(found, None)[:1]
        return [phrase(_TEXT, "others", one) for one in others]
    names: dict[str, list[str]] = {}
    for name in found.baselines:
        one = row.against[name].comparison
        if one is not None and one.n > 1:
            names.setdefault(relation(one), []).append(name)
    if not names:
        return []
    first = [one for one in _others(found, row) if one.baseline == found.baselines[0]]
    return [
        phrase(_TEXT, "relations", f"`{row.label}`", names).strip(),
        *(f"others {phrase(_TEXT, 'others', one)}" for one in first),
    ]


def _is_mapped(found: Results) -> bool:
    return sum(row.optimizer == SUBJECT and row.cell.n > 0 for row in found.rows) > 1


def _against(row: Row, name: str, metric: str) -> Against:
    cell = row.against[name]
    found = cell.comparison
    if found is None or found.n == 0:
        return Against(name, None, "", None)
    text = comparison_text(cell, metric).removesuffix(f" {found.verdict}")
    return Against(name, text, relation(found), p_words(found.adjusted_p) if found.n > 1 else None)


def relation(found: Comparison) -> str:
    """Return "better than", "worse than" or "not shown to differ from"."""
    return "not shown to differ from" if found.verdict == "not shown" else f"{found.verdict} than"


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
        rows: dict[str, list[str]] = {}
        seeds: set[int] = set()
        for row in found.rows:
            one = row.against[name].comparison if row.optimizer != name else None
            if row is not left_out and one is not None and one.n > 1:
                rows.setdefault(one.verdict, []).append(row.label)
                seeds |= {one.n} if one.verdict == "not shown" else set()
        if rows:
            span = (min(seeds), max(seeds)) if len(seeds) > 1 else None
            better, worse, rest = (rows.get(word, []) for word in _ORDER)
            every.append(Others(name, better, worse, rest, span))
    return every


_LEVEL = 0.05
_TESTS = {"t": "t", "sign_flip": "sign flips"}
_ORDER = ("better", "worse", "not shown")


class Pair(NamedTuple):
    """``method`` minus ``other``, at one dataset and model."""

    dataset: str
    model: str
    method: str
    other: str
    metric: str


@dataclass(frozen=True)
class Missing:
    """A pair that is not compared: ``lacking`` has no run, or ``several`` settings."""

    method: str
    other: str
    lacking: str
    several: bool


Compared = tuple[Pair, Comparison]


def contrasts(
    runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], looks: int = 1
) -> tuple[list[Compared], list[Missing]]:
    """Return each pair of optimizers compared by seed, wherever both have runs; and what is not.

    Verdicts are corrected over all that are judged by the same metric. As in a table, the spread of
    differences counts as half at least of the typical one, of all rows there.

    Args:
        runs: the report runs.
        pairs: method and what it is compared with.
        looks: see `analysis.table.comparisons.compare`.
    """
    asked, missing = [], []
    for (dataset, model), here in runs.groupby(["dataset", "model"], sort=True):
        metric = metric_of(here)
        numbers = {str(name): _numbers(own, metric) for name, own in here.groupby("optimizer")}
        for method, other in pairs:
            lacking = [name for name in (method, other) if not numbers.get(name)]
            if lacking:
                missing.append(Missing(method, other, lacking[0], lacking[0] in numbers))
            else:
                pair = Pair(str(dataset), str(model), method, other, metric)
                asked.append((pair, numbers[method], numbers[other], _floor(numbers, other)))
    found = []
    for metric in sorted({pair.metric for pair, *_ in asked}):
        judged = [one for one in asked if one[0].metric == metric]
        compared = compare(
            [paired(own, base) for _, own, base, _ in judged],
            higher_is_better=in_percent(metric),
            level=_LEVEL,
            looks=looks,
            floors=[least for *_, least in judged],
        )
        for (pair, own, base, _), one in zip(judged, compared, strict=True):
            found.append((pair, guarded(one, own, base)))
    return found, list(dict.fromkeys(missing))


def _numbers(own: pd.DataFrame, metric: str) -> Seeds:
    """Return an optimizer's numbers by seed, None for a run that diverged; empty where unclear."""
    own = own[own["variant"].notna()]
    return by_seed(records(own, metric), metric) if own["variant"].nunique() == 1 else {}


def _floor(numbers: Mapping[str, Seeds], base: str) -> float:
    """Return the least believable spread of differences to ``base``, by those of all its rows."""
    others = [paired(own, numbers[base]) for name, own in numbers.items() if name != base]
    return floor([sample_std(values) for values in others if len(values) > 1])


def section(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], looks: int, out: Output) -> str:
    """Return the Markdown of a study's contrasts, empty where it has none; answers go to ``out``.

    Args:
        runs: as of `contrasts`.
        pairs: as of `contrasts`.
        looks: as of `contrasts`.
        out: the page's.
    """
    found, missing = contrasts(runs, pairs, looks)
    if not found and not missing:
        return ""
    out.answers += _short(found, runs)
    metrics = [
        {"name": metric, "percent": in_percent(metric),
         "notes": how([one for pair, one in found if pair.metric == metric], _LEVEL, looks)}
        for metric in sorted({pair.metric for pair, _ in found})
    ]  # fmt: skip
    shown = {"table": _table(found, runs), "metrics": metrics} if found else None
    return phrase(_TEXT, "contrasts", shown, missing)


def _who(pair: Pair, runs: pd.DataFrame) -> str:
    return f"{where(runs, pair.dataset, pair.model)}`{pair.method}`"


def _table(found: Sequence[Compared], runs: pd.DataFrame) -> str:
    rows: list[list[str | Marked]] = []
    for pair, one in found:
        tested: list[str | Marked] = ["not tested", NOTHING, NOTHING]
        if one.n > 1:
            shown = one.verdict if one.verdict == "not shown" else Marked(one.verdict)
            tested = [shown, p_words(one.adjusted_p), _TESTS[one.test]]
        who = f"{_who(pair, runs)} against `{pair.other}`"
        rows.append([who, difference(one, pair.metric), str(one.n), *tested])
    header = ["comparison", "difference [95 %]", "seeds", "verdict", "corrected p", "test"]
    return write(Table(header, rows, align="lrrlrl", markdown=True), "markdown")


def _short(found: Sequence[Compared], runs: pd.DataFrame) -> list[str]:
    """Return each method's verdicts in words: "`a` is better than `b`; worse than `c`"."""
    names: dict[str, dict[str, list[str]]] = {}
    for pair, one in sorted(found, key=lambda one: _ORDER.index(one[1].verdict)):
        if one.n > 1:
            relations = names.setdefault(_who(pair, runs), {})
            relations.setdefault(relation(one), []).append(pair.other)
    return [phrase(_TEXT, "relations", who, those).strip() for who, those in names.items()]
