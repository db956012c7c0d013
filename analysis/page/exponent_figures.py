"""Exponents along training as figures: alpha, gamma and s, and the identity beside its null."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.claim.columns import column
from analysis.page import figures
from analysis.page.charts import COLOURS, Line, curves
from analysis.stats import mean, t_interval

_FEWEST = 3  # epochs: two are told by the table
_NETWORK = ["model", "dataset", "optimizer"]
_IDENTITY = ("triangle_relative_error", "null_noise_error")


def along_training(layers: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield name, title and SVG of each figure; none where fewer than three epochs were measured.

    Args:
        layers: the layers of `analysis.run.measured.Measured`.
    """
    every = [
        (" / ".join(map(str, key)), rows)
        for key, rows in layers.groupby(_NETWORK, sort=True)
        if rows["epoch"].nunique() >= _FEWEST
    ]
    networks = every[:COLOURS]
    left_out = f"; the first {COLOURS} of {len(every)} networks" if every[COLOURS:] else ""
    for name in ("alpha", "gamma", "s"):
        lines = [_exponent(label, k, rows, name) for k, (label, rows) in enumerate(networks)]
        title = f"{name} along training: mean over layers, then over runs{left_out}"
        yield from _drawn(name, title, [line for line in lines if line is not None], name)
    pairs = [one for k, (label, rows) in enumerate(networks) for one in _identity(label, k, rows)]
    title = f"|s - alpha gamma| / s in %, along training: median over layers and runs{left_out}"
    yield from _drawn("identity", title, pairs, "relative error (%)")


def _drawn(
    name: str, title: str, lines: list[Line], y_label: str
) -> Iterator[tuple[str, str, str]]:
    svg = curves(lines, x_label=figures.AXES["epoch"], y_label=y_label, whole=True)
    if svg:
        seen = [line for line in lines if np.isfinite(line.middle).sum() > 1]  # a point is no line
        legend = [(line.label, line.colour) for line in seen]
        yield name, title, figures.document(svg, legend, title)


def _exponent(label: str, colour: int, rows: pd.DataFrame, name: str) -> Line | None:
    """Return the mean over runs of their layers' mean, with its 95 % interval."""
    known = rows.assign(value=column(rows, name)).dropna(subset=["value"])
    if known.empty:
        return None
    of_run = known.groupby(["epoch", "run"], sort=True)["value"].agg(lambda v: mean(v.to_numpy()))
    epochs = sorted(set(of_run.index.get_level_values("epoch")))
    values = [of_run.loc[epoch].to_numpy() for epoch in epochs]
    middle = np.array([mean(one) for one in values])
    ends = np.array([t_interval(one) for one in values])
    low, high = np.where(np.isnan(ends), middle[:, None], ends).T
    return Line(label, colour, np.array(epochs, dtype=np.float64), middle, low, high)


def _identity(label: str, colour: int, rows: pd.DataFrame) -> Iterator[Line]:
    """Yield the identity's median error in percent, and that of a power law with noise, dashed."""
    for place, name in enumerate(_IDENTITY):
        if name not in rows:
            continue
        errors = rows.assign(value=column(rows, name)).groupby("epoch", sort=True)["value"].median()
        at, middle = (np.asarray(v, dtype=np.float64) for v in (errors.index, 100 * errors))
        words = f"{label}{' (null)' if place else ''}"
        yield Line(words, colour + COLOURS * place, at, middle, middle, middle)
