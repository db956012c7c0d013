"""Comparisons that a study's file asks for by name, beside those with its baselines.

study:
  contrasts: [[spectral_newton_measured, spectral_newton]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from analysis.page.output import Output
from analysis.page.study import where
from analysis.page.table import metric_of, p_words
from analysis.page.verdict import listed, relation
from analysis.stats import sample_std
from analysis.table.baseline import Seeds, guarded, how, paired
from analysis.table.build import by_seed
from analysis.table.comparisons import Comparison, compare, floor
from analysis.table.model import in_percent
from analysis.table.select import records
from analysis.table.shown import NOTHING, difference

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


Found = tuple[Pair, Comparison]


def contrasts(
    runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], looks: int = 1
) -> tuple[list[Found], list[str]]:
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
                why = "has several settings" if lacking[0] in numbers else "has no run"
                missing.append(f"`{method}` and `{other}` are not compared: {lacking[0]} {why}.")
            else:
                pair = Pair(str(dataset), str(model), method, other, metric)
                asked.append((pair, numbers[method], numbers[other], _floor(numbers, other)))
    found = []
    for metric in sorted({pair.metric for pair, *_ in asked}):
        alike = [one for one in asked if one[0].metric == metric]
        compared = compare(
            [paired(own, base) for _, own, base, _ in alike],
            higher_is_better=in_percent(metric),
            level=_LEVEL,
            looks=looks,
            floors=[least for *_, least in alike],
        )
        for (pair, own, base, _), one in zip(alike, compared, strict=True):
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
    lines = ["### Asked besides\n"]
    if found:
        lines += [
            "| comparison | difference [95 %] | seeds | verdict | corrected p | test |",
            "| --- | ---: | ---: | --- | ---: | --- |",
            *(_line(pair, one, _who(pair, runs)) for pair, one in found),
            "",
        ]
    for metric in sorted({pair.metric for pair, _ in found}):
        alike = [one for pair, one in found if pair.metric == metric]
        first, *rest = how(alike, _LEVEL, looks)
        unit = "points" if in_percent(metric) else "nats"
        lines += [f"- {metric}, in {unit}: {first}", *(f"- {note}" for note in rest)]
    lines += ["- Corrected among themselves, not with the comparisons above."] if found else []
    lines += [f"- {words}" for words in missing]
    out.answers += _short(found, runs)
    return "\n".join(lines) + "\n"


def _who(pair: Pair, runs: pd.DataFrame) -> str:
    return f"{where(runs, pair.dataset, pair.model)}`{pair.method}`"


def _line(pair: Pair, one: Comparison, who: str) -> str:
    told = ["not tested", NOTHING, NOTHING]
    if one.n > 1:
        bold = "" if one.verdict == "not shown" else "**"
        told = [f"{bold}{one.verdict}{bold}", p_words(one.adjusted_p), _TESTS[one.test]]
    cells = [f"{who} against `{pair.other}`", difference(one, pair.metric)]
    return f"| {' | '.join([*cells, str(one.n), *told])} |"


def _short(found: Sequence[Found], runs: pd.DataFrame) -> list[str]:
    """Return each method's verdicts in words: "`a` is better than `b`; worse than `c`"."""
    told: dict[str, dict[str, list[str]]] = {}
    for pair, one in sorted(found, key=lambda one: _ORDER.index(one[1].verdict)):
        if one.n > 1:
            words = told.setdefault(_who(pair, runs), {})
            words.setdefault(relation(one), []).append(f"`{pair.other}`")
    return [
        f"{who} is {'; '.join(f'{words} {listed(others)}' for words, others in verdicts.items())}"
        for who, verdicts in told.items()
    ]
