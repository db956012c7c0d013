"""Exponents as a table for the terminal."""

from __future__ import annotations

import math

import pandas as pd
from rich.table import Table

from analysis.measure.exponents import RELIABLE_POINTS, RELIABLE_R2

LEGEND = (
    "h = c sigma^alpha, sigma_k = c k^-gamma, h_(k) = c k^-s. se: standard error; R2: of alpha's"
    " fit, in log space; w/o 1: alpha without k = 1; a*g: alpha*gamma; error: |s - a*g| / s; n:"
    " directions with sigma > 0 and h > 0, of those measured;"
    f" !: unreliable (n < {RELIABLE_POINTS} or R2 < {RELIABLE_R2})"
)


def render(exponents: pd.DataFrame) -> Table:
    """Return one line a layer of `exponents_table`; `LEGEND` says what the columns mean."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("layer", "type", "shape"):
        table.add_column(name, no_wrap=True)
    for name in ("alpha +- se", "R2", "w/o 1", "gamma", "s", "a*g", "error", "n  "):
        table.add_column(name, justify="right", no_wrap=True)
    for row in exponents.to_dict("records"):
        table.add_row(
            str(row["layer"]),
            str(row["layer_type"]),
            f"{row['rows']}x{row['cols']}",
            f"{_number(row['alpha'])} +- {_number(row['alpha_stderr'])}",
            *(_number(row[name]) for name in ("alpha_r2", "alpha_without_first", "gamma", "s")),
            _number(row["predicted_s"]),
            _percent(row["triangle_relative_error"]),
            f"{row['n_valid']}/{row['n_directions']} {' ' if row['reliable'] else '!'}",
        )
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}%"
