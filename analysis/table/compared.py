"""The comparisons of a table's cells, judged as one section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis import stats
from analysis.judge import section
from analysis.judge.power import seeds_needed
from analysis.judge.section import Plan, Section
from analysis.judge.verdicts import Seeds, paired
from analysis.table.grid import Grid
from analysis.table.model import Cell
from analysis.table.targets import is_target

Numbers = Sequence[Sequence[Seeds]]


def compare(
    grid: Grid,
    cells: list[list[Cell]],
    plan: Plan,
    *,
    baselines: Sequence[str],
    direction: int,
    resolve: float | None = None,
) -> tuple[Section | None, list[list[Cell]], list[str]]:
    """Return the section of a grid, its cells with their comparisons, and notes on them.

    No section where nothing is asked, as of times to a target: a run that missed has no number to
    pair.

    Args:
        grid: the runs in rows and columns.
        cells: ``cells[row][column]``.
        plan: how they are judged, and which pairs besides.
        baselines: labels of the rows that every other is compared with.
        direction: 1 where larger is better, -1 where smaller is, 0 where that is not known.
        resolve: a difference in the metric's unit; cells say how many seeds would show it.

    Raises:
        ValueError: the metric has no numbers to pair, or no direction; no such row.
    """
    pairs = () if is_target(grid.metric) else plan.pairs
    if not (baselines or pairs or resolve is not None):
        return None, cells, []
    labels = list(grid.labels.values())
    _check(grid.metric, labels, baselines, direction, resolve)
    numbers = grid.numbers()
    judged = section.judged(
        labels, grid.judged_runs(), numbers, plan, baselines=baselines, direction=direction
    )
    compared = [
        [
            replace(cell, comparisons=tuple(judged.against(label, name, j) for name in baselines))
            for j, cell in enumerate(line)
        ]
        for label, line in zip(labels, cells, strict=True)
    ]
    first, *notes = section.notes(judged, plan)
    notes.insert(0, f"vs {' and '.join(baselines)}: {first}" if baselines else first)
    if resolve is not None:
        compared = _resolved(compared, numbers, labels.index(baselines[0]), resolve)
        notes.append(
            f"seeds: how many would show a difference of {resolve:g} in {grid.metric} (80 % power,"
            " alone, with the spread seen here)."
        )
    return judged, compared, notes


def _check(
    metric: str,
    labels: Sequence[str],
    baselines: Sequence[str],
    direction: int,
    resolve: float | None,
) -> None:
    if is_target(metric):
        raise ValueError(
            f"{metric}: no verdicts, because a run that missed has no number to pair; "
            "leave baseline= and resolve= out"
        )
    if resolve is not None and not baselines:
        raise ValueError("resolve= needs a baseline to differ from: add baseline=<row>")
    for name in baselines:
        section.check_baseline(name, labels)
    if direction == 0:
        raise ValueError(f"{metric}: say which way is better with better=higher or better=lower")


def _resolved(
    cells: list[list[Cell]], numbers: Numbers, base: int, resolve: float
) -> list[list[Cell]]:
    """Return the cells with the seeds that would resolve a difference to row ``base``."""
    return [
        [
            cell if i == base else replace(
                cell, needed=_needed([*paired(numbers[i][j], numbers[base][j]).values()], resolve)
            )
            for j, cell in enumerate(line)
        ]
        for i, line in enumerate(cells)
    ]  # fmt: skip


def _needed(differences: Sequence[float], resolve: float) -> int | None:
    if len(differences) < 2:
        return None
    try:
        return seeds_needed(stats.sample_std(differences), resolve)
    except ValueError:  # more than anyone can train
        return None
