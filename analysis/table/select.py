"""What a table is asked for, taken from the runs' frame; a misspelt name is an error."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.run.frame import FIXED, GROUPS, nearest
from analysis.table.model import Run
from analysis.table.targets import OF_TARGETS, REACHED, SPENT, TOKENS, is_target
from analysis.table.timing import GRAPH, SECONDS

_CONFIG_OR_PROVENANCE = ("config.", "provenance.")


def of_sweep(runs: pd.DataFrame, sweep: str | None) -> pd.DataFrame:
    """Return the runs of a sweep, all where it is None; ValueError where there are none."""
    if runs.empty:
        raise ValueError("no runs there; make some with `spectral-bench train ...`")
    if sweep is None:
        return runs
    kept = runs[runs["sweep"] == sweep]
    if kept.empty:
        known = sorted({str(name) for name in runs["sweep"] if isinstance(name, str)})
        hint = f"; sweeps here: {', '.join(known)}" if known else "; no run here has a sweep"
        raise ValueError(f"no runs of sweep {sweep!r}{hint}")
    return kept


def check_metric(runs: pd.DataFrame, metric: str) -> None:
    """Raise ValueError where no finished run could have ``metric``, naming the nearest."""
    if not (runs["state"] == "done").any():
        return  # nothing to compare the name with; the table will say that nothing is finished
    if is_target(metric) and REACHED in runs:
        return  # all may have missed it, so that no run has a number
    known = [
        str(name)
        for name in runs.columns
        if name not in FIXED
        and not name.startswith(_CONFIG_OR_PROVENANCE)
        and runs[name].dtype == "float64"
    ]
    if metric not in known:
        hint = nearest(metric, known) or f"; known: {', '.join(known)}"
        raise ValueError(f"unknown metric {metric!r}{hint}")


def column(runs: pd.DataFrame, name: str) -> str:
    """Return the frame's column for ``optimizer``, ``optimizer.lr`` or ``config.optimizer.lr``."""
    config = [str(column) for column in runs.columns if column.startswith("config.")]
    known = (*GROUPS, "sweep", "variant", *config)
    for candidate in (name, f"config.{name}"):
        if candidate in known:
            return candidate
    short = [column.removeprefix("config.") for column in known]
    raise ValueError(f"unknown column {name!r}{nearest(name, short)}; try {', '.join(GROUPS)}")


def records(runs: pd.DataFrame, metric: str) -> list[Run]:
    """Return the frame's rows as mappings, None for every missing value.

    Of the summaries' columns there are those that a table of ``metric`` reads, and no others.
    """
    summary = (metric, SECONDS, GRAPH, TOKENS, *OF_TARGETS, *SPENT)
    names = [str(name) for name in runs.columns]
    names = [n for n in names if n in FIXED or n in summary or n.startswith(_CONFIG_OR_PROVENANCE)]
    columns = [_values(runs[name]) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pd.Series[Any]) -> list[Any]:
    """Return a column's values, None for what is missing; hundreds of columns ask for speed."""
    return [
        None if absent else value
        for value, absent in zip(column.tolist(), column.isna().tolist(), strict=True)
    ]
