"""Comparisons that a study's file asks for by name, beside those with its baselines.

study:
  contrasts: [[spectral_newton_measured, spectral_newton]]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from analysis.page.output import Output
from analysis.page.table import metric_of, p_words
from analysis.page.verdict import listed, relation
from analysis.table.baseline import Seeds, guarded, how, paired
from analysis.table.build import by_seed
from analysis.table.comparisons import Comparison, compare
from analysis.table.model import in_percent
from analysis.table.select import records
from analysis.table.shown import NOTHING, difference

_LEVEL = 0.05


class Pair(NamedTuple):
    """``method`` minus ``other``, at one dataset and model."""

    dataset: str
    model: str
    method: str
    other: str
    metric: str


Found = tuple[Pair, Comparison]


def contrasts(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], looks: int = 1) -> list[Found]:
    """Return each pair of optimizers compared by seed, wherever both have runs.

    Verdicts are corrected over all that are judged by the same metric. An optimizer with several
    variants (a map) has no row to compare, and is left out.

    Args:
        runs: the report runs.
        pairs: method and what it is compared with.
        looks: see `analysis.table.comparisons.compare`.
    """
    asked = []
    for (dataset, model), here in runs.groupby(["dataset", "model"], sort=True):
        metric = metric_of(here)
        for method, other in pairs:
            numbers = [_numbers(here, name, metric) for name in (method, other)]
            if all(numbers):
                asked.append((Pair(str(dataset), str(model), method, other, metric), numbers))
    found = []
    for metric in sorted({pair.metric for pair, _ in asked}):
        alike = [one for one in asked if one[0].metric == metric]
        compared = compare(
            [paired(*numbers) for _, numbers in alike],
            problems=[(pair.dataset, pair.model) for pair, _ in alike],
            higher_is_better=in_percent(metric),
            level=_LEVEL,
            looks=looks,
        )
        for (pair, numbers), one in zip(alike, compared, strict=True):
            found.append((pair, guarded(one, *numbers)))
    return found


def _numbers(runs: pd.DataFrame, optimizer: str, metric: str) -> Seeds:
    """Return an optimizer's numbers by seed, None for a run that diverged; empty where unclear."""
    own = runs[(runs["optimizer"] == optimizer) & runs["variant"].notna()]
    return by_seed(records(own, metric), metric) if own["variant"].nunique() == 1 else {}


def section(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], looks: int, out: Output) -> str:
    """Return the Markdown of a study's contrasts, empty where it has none; answers go to ``out``.

    Args:
        runs: as of `contrasts`.
        pairs: as of `contrasts`.
        looks: as of `contrasts`.
        out: the page's.
    """
    found = contrasts(runs, pairs, looks)
    if not found:
        return ""
    several = len({pair[:2] for pair, _ in found}) > 1
    lines = [
        "### Asked besides\n",
        "| comparison | difference [95 %] | seeds | verdict | corrected p |",
        "| --- | ---: | ---: | --- | ---: |",
        *(_line(pair, one, several) for pair, one in found),
        "",
    ]
    for metric in sorted({pair.metric for pair, _ in found}):
        alike = [one for pair, one in found if pair.metric == metric]
        first, *rest = how(alike, _LEVEL, looks)
        unit = "points" if in_percent(metric) else "nats"
        lines += [f"- {metric}, in {unit}: {first}", *(f"- {note}" for note in rest)]
    out.answers += _short(found, several)
    return "\n".join(lines) + "\n"


def _who(pair: Pair, several: bool) -> str:
    where = f"on {pair.model} / {pair.dataset} " if several else ""
    return f"{where}`{pair.method}`"


def _line(pair: Pair, one: Comparison, several: bool) -> str:
    told = ["not tested", NOTHING]
    if one.n > 1:
        bold = "" if one.verdict == "not shown" else "**"
        told = [f"{bold}{one.verdict}{bold}", p_words(one.adjusted_p)]
    cells = [f"{_who(pair, several)} against `{pair.other}`", difference(one, pair.metric)]
    return f"| {' | '.join([*cells, str(one.n), *told])} |"


def _short(found: Sequence[Found], several: bool) -> list[str]:
    """Return each method's verdicts in words: "`a` is better than `b` and worse than `c`"."""
    told: dict[str, dict[str, list[str]]] = {}
    for pair, one in found:
        if one.n > 1:
            words = told.setdefault(_who(pair, several), {})
            words.setdefault(relation(one), []).append(f"`{pair.other}`")
    return [
        f"{who} is {listed([f'{words} {listed(others)}' for words, others in verdicts.items()])}"
        for who, verdicts in told.items()
    ]
