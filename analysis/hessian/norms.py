"""Norms of every block of a dense Hessian, as a table; the columns that estimates have too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from analysis.hessian.groups import Group

Pair = tuple[Group, Group]


def pairs(groups: Sequence[Group]) -> list[Pair]:
    """Return the blocks on and above the diagonal; the others are their transposes."""
    return list(combinations_with_replacement(groups, 2))


def table(rows: Iterator[dict[str, Any]], level: str, method: str) -> pd.DataFrame:
    """Return rows as a table, with what the norms are by the number of entries.

    ``frobenius_per_entry`` is the root mean square of the entries, ``spectral_per_entry`` is
    the spectral norm over the square root of their number: at most the former.
    """
    found = pd.DataFrame(rows)
    found.insert(0, "level", level)
    found["method"] = method
    root = (found["row_size"] * found["col_size"]) ** 0.5
    for norm in ("frobenius", "spectral"):
        found[f"{norm}_per_entry"] = found[norm] / root
    return found


def exact_norms(hessian: Tensor, groups: Sequence[Group], level: str) -> pd.DataFrame:
    """Return one row a block of ``hessian`` [P, P], computed in float64.

    The spectral norm is the largest singular value. Columns: docs/curvature.md.
    """
    return table((_exact(hessian, pair) for pair in pairs(groups)), level, "exact")


def names(pair: Pair) -> dict[str, Any]:
    """Return what says which block it is."""
    row, col = pair
    return {
        "row": row.name,
        "col": col.name,
        "row_role": row.role,
        "col_role": col.role,
        "row_size": row.size,
        "col_size": col.size,
    }


def _exact(hessian: Tensor, pair: Pair) -> dict[str, Any]:
    row, col = pair
    rows = torch.cat([hessian[start:stop] for start, stop in row.spans])
    block = col.take(rows).double()
    frobenius = float(torch.linalg.matrix_norm(block))
    spectral = float(torch.linalg.matrix_norm(block, ord=2))
    return names(pair) | {
        "mean_abs": float(block.abs().mean()),
        "frobenius": frobenius,
        "frobenius_stderr": 0.0,
        "frobenius_low": frobenius,
        "frobenius_high": frobenius,
        "spectral": spectral,
        "spectral_high": spectral,
    }


def asymmetry(hessian: Tensor) -> float:
    """Return the largest abs(H_ij - H_ji) over the largest abs(H_ij): rounding, and no more."""
    largest, difference = 0.0, 0.0
    for start in range(0, len(hessian), 1024):
        rows = hessian[start : start + 1024]
        columns = hessian[:, start : start + 1024].T
        largest = max(largest, float(rows.abs().max()))
        difference = max(difference, float((rows - columns).abs().max()))
    return difference / largest if largest > 0 else math.nan
