"""What was measured of a network as tables for a terminal, each with its legend."""

from __future__ import annotations

import math

import pandas as pd

from analysis.measure.exponents import RELIABLE_POINTS, RELIABLE_R2
from analysis.measure.kronecker import model_match
from bench.table_writer import Table

EXPONENT_LEGEND = (
    "h = c sigma^alpha, sigma_k = c k^-gamma, h_(k) = c k^-s. se: standard error; R2: of alpha's"
    " fit, in log space; w/o 1: alpha without k = 1; a*g: alpha*gamma; error: |s - a*g| / s; n:"
    " directions with sigma > 0 and h > 0, of those measured;"
    f" !: unreliable (n < {RELIABLE_POINTS} or R2 < {RELIABLE_R2})"
)


def render_exponents(exponents: pd.DataFrame) -> Table:
    """Return one line a layer of `exponents_table`; `EXPONENT_LEGEND` says what columns mean."""
    rows = [
        [
            str(row["layer"]),
            str(row["layer_type"]),
            f"{row['rows']}x{row['cols']}",
            f"{_number(row['alpha'])} +- {_number(row['alpha_stderr'])}",
            *(_number(row[name]) for name in ("alpha_r2", "alpha_without_first", "gamma", "s")),
            _number(row["predicted_s"]),
            _percent(row["triangle_relative_error"]),
            f"{row['n_valid']}/{row['n_directions']} {' ' if row['reliable'] else '!'}",
        ]
        for row in exponents.to_dict("records")
    ]
    names = ("alpha +- se", "R2", "w/o 1", "gamma", "s", "a*g", "error", "n  ")
    return Table(("layer", "type", "shape", *names), rows, align="lll" + "r" * len(names))


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}%"


BLOCK_LEGEND = (
    "Blocks on the diagonal. per entry: Frobenius norm over the root of the number of entries:"
    " their root mean square; +-: standard error; spectral: the largest abs(eigenvalue), of"
    " estimates from a sure lower end to an upper one of 95 %; rest: norm of the row's other blocks"
    " together, by that of the block"
)


def render_blocks(blocks: pd.DataFrame) -> Table:
    """Return one line a group, of its block on the diagonal; `BLOCK_LEGEND` says what they mean."""
    shown, rows = _level(blocks), []
    for row in shown[shown["row"] == shown["col"]].to_dict("records"):
        error, high = row["frobenius_stderr"], row["spectral_high"]
        spectral = _short(row["spectral"])
        rest = _rest(shown, str(row["row"])) / row["frobenius"] if row["frobenius"] else 0.0
        rows.append(
            [
                str(row["row"]),
                str(row["row_size"]),
                _short(row["mean_abs"]),
                _short(row["frobenius_per_entry"]),
                _short(row["frobenius"]) + (f" +- {_short(error)}" if error > 0 else ""),
                f"{spectral}..{_short(high)}" if high > row["spectral"] else spectral,
                _short(rest),
            ]
        )
    names = ("size", "mean abs", "per entry", "Frobenius", "spectral", "rest")
    return Table(("group", *names), rows)


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


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


KRONECKER_LEGEND = (
    "ln h_kron = alpha_kron ln sigma, alpha_kron = beta + phi; chi = h / h_kron, chi slope that of"
    " ln chi on ln sigma; SUD, IAD: medians of what K-FAC's assumptions leave out (1: nothing);"
    " r: correlation of ln h_kron and ln sigma^2; ranks: participation ratios of C_delta, C_A"
)
_NUMBERS = {
    "alpha_kron": "alpha_kron", "beta": "beta", "phi": "phi", "chi_slope": "chi slope",
    "chi_median": "chi", "sud_median": "SUD", "iad_median": "IAD", "identity_correlation": "r",
    "delta_rank": "rank d", "input_rank": "rank A",
}  # fmt: skip


def render_kronecker(layers: pd.DataFrame) -> Table:
    """Return one line a layer and kind of errors; `KRONECKER_LEGEND` says what columns mean."""
    rows = [
        [str(row["layer"]), str(row["errors"]), *(_short(row[name]) for name in _NUMBERS)]
        for row in layers.to_dict("records")
    ]
    return Table(("layer", "errors", *_NUMBERS.values()), rows, align="ll" + "r" * len(_NUMBERS))


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
