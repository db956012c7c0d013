"""The verdict of a study in words, made from the numbers and nothing else."""

from __future__ import annotations

from collections import Counter
from statistics import median

from analysis.page.budget import usual
from analysis.page.study import Study, span, values
from analysis.page.table import Results, Row, p_words
from analysis.table.model import in_percent
from analysis.table.shown import comparison_text, value

_LOWER = " (lower is better)"
SUBJECT = "spectral_newton"  # the optimizer that the benchmark is about


def sentences(found: Results, study: Study) -> str:
    """Return what one dataset and model of a study say; empty where the subject has no result."""
    rows = [row for row in found.rows if row.optimizer == SUBJECT and row.cell.n]
    if len(rows) != 1:  # none, or a map of many settings
        return ""
    row = rows[0]
    metric = found.table.metric
    unit = " %" if in_percent(metric) else f"{_unit(metric)}{_LOWER}" if _unit(metric) else ""
    words = [
        f"On {found.model} / {found.dataset} ({_circumstances(found, study, row)}),"
        f" `{row.label}` ends at {metric} {value(row.cell, found.table)}{unit}:"
        f" {' and '.join(_against(row, name, metric) for name in found.baselines)}."
        if found.baselines
        else f"On {found.model} / {found.dataset} ({_circumstances(found, study, row)}),"
        f" `{row.label}` ends at {metric} {value(row.cell, found.table)}{unit}."
    ]
    words += _speed(found, row)
    words += [_others(found, row, name) for name in found.baselines[:1]]
    return " ".join(words)


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
    told = f"{told}, corrected {p_words(found.adjusted_p)}"
    if found.verdict == "not shown":
        return f"not shown to differ from `{name}` ({told})"
    return f"{found.verdict} than `{name}` ({told})"


def _speed(found: Results, row: Row) -> list[str]:
    """Say how long an epoch takes against the first baseline."""
    others = {one.label: one.cell.seconds for one in found.rows}
    base = others.get(found.baselines[0]) if found.baselines else None
    if not row.cell.seconds or not base or not median(base) > 0:
        return []
    ratio = median(row.cell.seconds) / median(base)
    return [f"An epoch takes {ratio:.2f} times as long as with `{found.baselines[0]}`."]


def _others(found: Results, row: Row, name: str) -> str:
    """Count the verdicts of all other rows."""
    rest = [one for one in found.rows if one is not row and one.optimizer != name]
    told = [one.against[name].comparison for one in rest]
    counts = Counter(one.verdict for one in told if one is not None and one.n > 1)
    parts = [f"{counts[word]} {word}" for word in ("better", "worse", "not shown") if counts[word]]
    if not parts:
        return ""
    tested = sum(counts.values())
    if tested == 1:
        return f"The one other row against `{name}`: {next(iter(counts))}."
    return f"Of the {tested} other rows against `{name}`: {', '.join(parts)}."


def seeds(study: Study) -> str:
    """Return the report seeds shortly."""
    return span([int(seed) for seed in study.runs["seed"].dropna()])
