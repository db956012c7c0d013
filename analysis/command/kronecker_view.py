"""The Kronecker side as a table for the terminal."""

from __future__ import annotations

import math

import pandas as pd
from rich.table import Table

from analysis.measure.kronecker_table import model_match

LEGEND = (
    "ln h_kron = alpha_kron ln sigma, alpha_kron = beta + phi; chi = h / h_kron, chi slope that of"
    " ln chi on ln sigma; SUD, IAD: medians of what K-FAC's assumptions leave out (1: nothing);"
    " r: correlation of ln h_kron and ln sigma^2; ranks: participation ratios of C_delta, C_A"
)
_NUMBERS = {
    "alpha_kron": "alpha_kron", "beta": "beta", "phi": "phi", "chi_slope": "chi slope",
    "chi_median": "chi", "sud_median": "SUD", "iad_median": "IAD", "identity_correlation": "r",
    "delta_rank": "rank d", "input_rank": "rank A",
}  # fmt: skip


def render(layers: pd.DataFrame) -> Table:
    """Return one line a layer and kind of errors; `LEGEND` says what the columns mean."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("layer", "errors"):
        table.add_column(name, no_wrap=True)
    for name in _NUMBERS.values():
        table.add_column(name, justify="right", no_wrap=True)
    for row in layers.to_dict("records"):
        numbers = (row[name] for name in _NUMBERS)
        cells = ("-" if math.isnan(value) else f"{value:.3g}" for value in numbers)
        table.add_row(str(row["layer"]), str(row["errors"]), *cells)
    return table


def match_lines(layers: pd.DataFrame) -> list[str]:
    """Say how often the rank model of each factor is the gradient's, and how often by chance."""
    lines = []
    for errors, group in layers.groupby("errors", sort=False):
        for factor, name in (("delta", "C_delta"), ("input", "C_A")):
            match = model_match(group, factor)
            if not math.isnan(match.rate):
                lines.append(
                    f"{errors} errors: {name} has the gradient's rank model in "
                    f"{100 * match.rate:.0f} % of the layers (by chance "
                    f"{100 * match.expected:.0f} %, permutation p = {match.p_value:.3f})"
                )
    return lines
