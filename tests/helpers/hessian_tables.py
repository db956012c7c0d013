"""Small tables of Hessian blocks and of a landscape, of real matrices and losses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from analysis.curvature_core.blocks import exact_norms
from analysis.curvature_core.products import Group
from analysis.landscape import tables
from analysis.measure.files import write_table
from analysis.measure.landscape import Line, Point

ROLES = ("query", "key", "value", "output", "mlp_up", "mlp_down", "head")


def blocks(size: Mapping[str, float], *, epoch: float = 5.0, seed: int = 0) -> pd.DataFrame:
    """Return the blocks of a random symmetric matrix with rows scaled by role, 1 if not named."""
    groups = [Group(role, role, ((3 * i, 3 * i + 3),)) for i, role in enumerate(ROLES)]
    drawn = np.random.default_rng(seed).normal(1, 0.05, (21, 21))
    scale = np.repeat([size.get(role, 1.0) for role in ROLES], 3) ** 0.5
    matrix = torch.tensor((drawn + drawn.T) * scale[:, None] * scale)
    found = exact_norms(matrix, groups, "role")
    return found.assign(step=int(10 * epoch), epoch=epoch)


def landscape(
    constants: Mapping[float, float], *, power: float = 0.0, seed: int = 0, samples: int = 400
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return windows and points; at place t losses have the spread ``constants[t]``.

    With ``power`` the losses of later samples are larger, as k^power.
    """
    rng = np.random.default_rng(seed)
    k = np.arange(1, samples + 1)
    points = [
        Point(t, 3 * t, 1 + spread * k**power * rng.exponential(size=samples))
        for t, spread in constants.items()
    ]
    return tables(Line(points, 3.0, 0.4), 50, 5.0)


def write(folder: Path, **found: pd.DataFrame) -> None:
    """Write tables by name into a run folder."""
    for name, table in found.items():
        write_table(table, folder / f"{name}.parquet", {})
