"""The verdict of a study in words, made from the numbers and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from analysis.page.budget import usual
from analysis.page.study import Study, values
from analysis.page.table import Results, Row, p_words
from analysis.table.comparisons import Comparison
from analysis.table.model import in_percent
from analysis.table.shown import comparison_text, value

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
