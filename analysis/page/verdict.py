"""The verdict of a study in words, made from the numbers and nothing else.

Comparisons that a study's file asks for by name, beside those with its baselines.

study:
  contrasts: [[spectral_newton_measured, spectral_newton]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

import pandas as pd

from analysis.page.budget import usual
from analysis.page.study import Output, Study, values, where
from analysis.page.table import Results, Row, metric_of, p_words
from analysis.stats import sample_std
from analysis.table.build import by_seed
from analysis.table.comparisons import Comparison, Seeds, compare, floor, guarded, how, paired
from analysis.table.model import in_percent
from analysis.table.render import NOTHING, comparison_text, difference, value
from analysis.table.select import records

_LOWER = " (lower is better)"
_FEW = 3  # rows not shown to differ are told by name up to here
SUBJECT = "spectral_newton"  # the optimizer that the benchmark is about


def subject(found: Results) -> Row | None:
    """Return the subject's row; None where it has no result, or is a map of many settings."""
    rows = [row for row in found.rows if row.optimizer == SUBJECT and row.cell.n]
    return rows[0] if len(rows) == 1 else None


def sentences(found: Results, study: Study) -> str:
    """Return what one dataset and model of a study say; empty where nothing is compared."""
    row = subject(found)
    if row is None:
        return _without_subject(found, study)
    metric = found.table.metric
    unit = " %" if in_percent(metric) else f"{_unit(metric)}{_LOWER}" if _unit(metric) else ""
    against = " and ".join(_against(row, name, metric) for name in found.baselines)
    words = [
        f"On {found.model} / {found.dataset} ({_circumstances(found, study, row)}),"
        f" `{row.label}` ends at {metric} {value(row.cell, found.table)}{unit}"
        + (f": {against}." if against else ".")
    ]
    words += _speed(found, row)
    words += [f"Others {told}." for told in _others(found, row)]
    return " ".join(words)


def short(found: Results) -> list[str]:
    """Return the same in few words, without numbers; empty where nothing was tested."""
    row = subject(found)
    if row is None:
        return [] if _is_mapped(found) else [_told(*one) for one in _verdicts(found, None)[:1]]
    names: dict[str, list[str]] = {}
    for name in found.baselines:
        one = row.against[name].comparison
        if one is not None and one.n > 1:
            names.setdefault(relation(one), []).append(f"`{name}`")
    if not names:
        return []
    own = "; ".join(f"{words} {listed(those)}" for words, those in names.items())
    others = [f"others {told}" for told in _others(found, row)]
    return [f"`{row.label}` is {own}", *others]


def _without_subject(found: Results, study: Study) -> str:
    """Say how all rows compare with the first baseline."""
    verdicts = [] if _is_mapped(found) else _verdicts(found, None)
    if not verdicts:
        return ""
    base = next(row for row in found.rows if row.optimizer == verdicts[0][0])
    where = f"On {found.model} / {found.dataset} ({_circumstances(found, study, base)})"
    return f"{where}, {_told(*verdicts[0])}."


def _told(baseline: str, verdicts: str) -> str:
    return f"against `{baseline}`: {verdicts}"


def _is_mapped(found: Results) -> bool:
    return sum(row.optimizer == SUBJECT and row.cell.n > 0 for row in found.rows) > 1


def _unit(metric: str) -> str:
    return " nats" if metric.endswith("loss") else ""


def _circumstances(found: Results, study: Study, row: Row) -> str:
    here = study.runs[
        (study.runs["dataset"] == found.dataset) & (study.runs["model"] == found.model)
    ]
    epochs = " or ".join(values(here, "config.trainer.epochs"))
    trials, _, _ = usual([one.budget for one in found.rows])
    tuned = f"{trials} tuning trials each" if trials else "untuned"
    if len({one.budget.cost for one in found.rows}) > 1:
        tuned = "unequal tuning"
    seeds = f"{row.cell.n} seeds" if row.cell.n > 1 else "1 seed"
    if row.cell.n < row.cell.expected:
        seeds += f" of {row.cell.expected}"
    return f"{epochs} epochs, {seeds}, {tuned}, {', '.join(row.devices)}"


def _against(row: Row, name: str, metric: str) -> str:
    cell = row.against[name]
    found = cell.comparison
    if found is None or found.n == 0:
        return f"not compared with `{name}`"
    words = comparison_text(cell, metric).removesuffix(f" {found.verdict}")
    told = f"{words}{' points' if in_percent(metric) else _unit(metric)}"
    if found.n == 1:
        return f"not tested against `{name}` ({told})"
    return f"{relation(found)} `{name}` ({told}, corrected {p_words(found.adjusted_p)})"


def relation(found: Comparison) -> str:
    """Return "better than", "worse than" or "not shown to differ from"."""
    return "not shown to differ from" if found.verdict == "not shown" else f"{found.verdict} than"


def _speed(found: Results, row: Row) -> list[str]:
    """Say how long an epoch takes against the first baseline."""
    others = {one.label: one.cell.seconds for one in found.rows}
    base = others.get(found.baselines[0]) if found.baselines else None
    if not row.cell.seconds or not base or not median(base) > 0:
        return []
    ratio = median(row.cell.seconds) / median(base)
    return [f"An epoch takes {ratio:.2f} times as long as with `{found.baselines[0]}`."]


def _others(found: Results, row: Row) -> list[str]:
    """Return the verdicts of all other rows against the first baseline; none where none is."""
    return [_told(*one) for one in _verdicts(found, row) if one[0] == found.baselines[0]]


def _verdicts(found: Results, left_out: Row | None) -> list[tuple[str, str]]:
    """Return (baseline, which rows are better, worse or not shown to differ), where any is."""
    told = []
    for name in found.baselines:
        rows: dict[str, list[str]] = {}
        seeds: set[int] = set()
        for row in found.rows:
            one = row.against[name].comparison if row.optimizer != name else None
            if row is not left_out and one is not None and one.n > 1:
                rows.setdefault(one.verdict, []).append(f"`{row.label}`")
                seeds |= {one.n} if one.verdict == "not shown" else set()
        parts = [f"{word} {listed(rows[word])}" for word in ("better", "worse") if word in rows]
        rest = rows.get("not shown", [])
        many = f"the {len(rest)} others" if parts else f"any of {len(rest)}"
        few = listed(rest) if len(rest) <= _FEW else many
        of = f" (of {min(seeds)} to {max(seeds)} seeds)" if len(seeds) > 1 else ""
        parts += [f"no difference shown for {few}{of}"] if rest else []
        told += [(name, "; ".join(parts))] if parts else []
    return told


def listed(names: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


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
