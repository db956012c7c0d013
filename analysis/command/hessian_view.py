"""The blocks of a Hessian as a table for the terminal."""

from __future__ import annotations

import math

import pandas as pd
from rich.table import Table

LEGEND = (
    "Blocks on the diagonal. per entry: Frobenius norm over the root of the number of entries:"
    " their root mean square; +-: standard error; spectral: the largest abs(eigenvalue), of"
    " estimates from a sure lower end to an upper one of 95 %; rest: norm of the row's other blocks"
    " together, by that of the block"
)


def render(blocks: pd.DataFrame) -> Table:
    """Return one line a group, of its block on the diagonal; `LEGEND` says what they mean."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("group", no_wrap=True)
    for name in ("size", "mean abs", "per entry", "Frobenius", "spectral", "rest"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = _level(blocks)
    for row in shown[shown["row"] == shown["col"]].to_dict("records"):
        error, high = row["frobenius_stderr"], row["spectral_high"]
        spectral = _number(row["spectral"])
        table.add_row(
            str(row["row"]),
            str(row["row_size"]),
            _number(row["mean_abs"]),
            _number(row["frobenius_per_entry"]),
            _number(row["frobenius"]) + (f" +- {_number(error)}" if error > 0 else ""),
            f"{spectral}..{_number(high)}" if high > row["spectral"] else spectral,
            _number(_rest(shown, str(row["row"])) / row["frobenius"] if row["frobenius"] else 0.0),
        )
    return table


def order(blocks: pd.DataFrame) -> str:
    """Return the groups by their diagonal block's root mean square entry, largest first."""
    shown = _level(blocks)
    own = shown[shown["row"] == shown["col"]]
    ranked = own.sort_values("frobenius_per_entry", ascending=False, kind="stable")
    return "per entry: " + " > ".join(map(str, ranked["row"]))


def _level(blocks: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the roles, where there are any."""
    roles = blocks[blocks["level"] == "role"]
    return roles if len(roles) else blocks


def _rest(blocks: pd.DataFrame, group: str) -> float:
    """Return the Frobenius norm of a group's blocks off the diagonal, all together."""
    of_group = (blocks["row"] == group) ^ (blocks["col"] == group)
    return float((blocks.loc[of_group, "frobenius"] ** 2).sum() ** 0.5)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
