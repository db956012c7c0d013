"""A table as words: the same ones in every form for people, before its escapes and rules."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.table.comparisons import Comparison
from analysis.table.model import Cell, Table, in_percent, possible

NOTHING = "–"
_BEST = "of its column, among the rows with every seed finished where there are any."


@dataclass(frozen=True)
class Part:
    """One entry: what is emphasised, and what follows it."""

    text: str
    after: str = ""
    best: bool = False

    @property
    def plain(self) -> str:
        """The whole entry as one text."""
        return f"{self.text} {self.after}".strip()


@dataclass(frozen=True)
class Shown:
    """``header`` [1 + entries]; ``rows``: label and its entries; notes; runs behind each cell."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Part, ...]], ...]
    notes: tuple[str, ...]
    best_note: str | None
    ids: tuple[str, ...]


def shown(table: Table) -> Shown:
    """Return the words of ``table``."""
    header = [table.corner]
    for name in table.columns:
        header += [name, "s/epoch"]
        header += [f"vs {table.baseline}"] if table.baseline else []
        header += [f"seeds for {_plain(table.resolve, table.metric)}"] if table.resolve else []
    rows = [
        (label, tuple(part for cell in row for part in _parts(cell, table)))
        for label, row in zip(table.rows, table.cells, strict=True)
    ]
    marked = any(cell.best for row in table.cells for cell in row)
    best = "mean" if table.statistic == "mean" else "interquartile mean"
    return Shown(
        header=tuple(header),
        rows=tuple(rows),
        notes=table.notes,
        best_note=f"best {best} {_BEST}" if marked else None,
        ids=tuple(
            f"{label}, {column}: {', '.join(cell.run_ids) or 'none'}"
            for label, row in zip(table.rows, table.cells, strict=True)
            for column, cell in zip(table.columns, row, strict=True)
        ),
    )


def _parts(cell: Cell, table: Table) -> list[Part]:
    parts = [Part(value(cell, table), _count(cell), cell.best), Part(_seconds(cell))]
    if table.baseline:
        parts.append(Part(comparison_text(cell, table.metric)))
    if table.resolve:
        parts.append(Part(NOTHING if cell.needed is None else str(cell.needed)))
    return parts


def value(cell: Cell, table: Table) -> str:
    """Return "93.21 ± 0.15", "93.21 [92.84, 93.58]", "93.21" for one run, or a dash for none."""
    if cell.n == 0:
        return NOTHING
    if math.isinf(cell.mean):
        return "missed"
    centre = cell.mean if table.statistic == "mean" else cell.iqm
    number = _plain if in_percent(table.metric) or _readable(centre) else _scientific
    text = number(centre, table.metric)
    if table.spread == "std":
        return text if math.isnan(cell.std) else f"{text} ± {number(cell.std, table.metric)}"
    if math.isnan(cell.interval.low):
        return text
    scale = 100.0 if in_percent(table.metric) else 1.0
    ends = possible(table.metric, scale * np.array(cell.interval)) / scale
    return f"{text} [{', '.join(number(float(end), table.metric) for end in ends)}]"


def comparison_text(cell: Cell, metric: str) -> str:
    """Return "+0.31 [+0.02, +0.60] better", or a dash for the baseline itself and lone runs."""
    found = cell.comparison
    if found is None or found.n == 0:
        return NOTHING
    return f"{difference(found, metric)}{f' {found.verdict}' if found.n > 1 else ''}"


def difference(found: Comparison, metric: str) -> str:
    """Return "+0.31 [+0.02, +0.60]", "+0.31 (1 pair)", or a dash for no pair."""
    if found.n == 0:
        return NOTHING
    readable = in_percent(metric) or _readable(found.difference)
    sign = _signed if readable else _signed_scientific
    text = sign(found.difference, metric)
    if found.n == 1:
        return f"{text} (1 pair)"
    return f"{text} [{', '.join(sign(end, metric) for end in found.interval)}]"


def _readable(number: float) -> bool:
    return number == 0 or 1e-3 <= abs(number) < 1e6


def _plain(number: float | None, metric: str) -> str:
    if number is None:
        return NOTHING
    return f"{100 * number:.2f}" if in_percent(metric) else f"{number:.4f}"


def _scientific(number: float | None, metric: str) -> str:
    del metric
    return f"{number:.3e}"


def _signed(number: float, metric: str) -> str:
    text = f"{100 * number:+.2f}" if in_percent(metric) else f"{number:+.4f}"
    # Rounding's own noise has no sign; an end of an interval just below 0 has.
    return text.replace("-", "+") if abs(number) < 1e-8 else text


def _signed_scientific(number: float, metric: str) -> str:
    del metric
    return f"{number:+.3e}"


def _count(cell: Cell) -> str:
    diverged = f", {cell.diverged} diverged" if cell.diverged else ""
    reached = "" if cell.reached is None else f"{cell.reached} of "
    return f"({reached}{cell.n}/{cell.expected}{diverged})"


def _seconds(cell: Cell) -> str:
    seconds = cell.seconds_per_epoch
    if math.isnan(seconds):
        return NOTHING
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"
