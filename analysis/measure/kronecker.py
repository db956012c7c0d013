"""Measure the Kronecker side of a network whose curvature was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, get_args

import pandas as pd
from torch import Tensor, nn

from analysis.directions import Directions, gradient_directions
from analysis.kronecker import Errors, kronecker_sides
from analysis.measure.kronecker_table import direction_rows, layer_row
from analysis.objective import Loss, Settings, cross_entropy
from optimizers.kronecker import supports


class KroneckerMeasurement(NamedTuple):
    """What `measure_kronecker` returns.

    ``directions`` has one row a layer, direction and kind of errors, ``layers`` one a layer and
    kind of errors; see `analysis.measure.kronecker_table`. ``notes`` says what could not be
    measured.
    """

    directions: pd.DataFrame
    layers: pd.DataFrame
    notes: list[str]


def measure_kronecker(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    curvature: pd.DataFrame,
    *,
    loss: Loss = cross_entropy,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> KroneckerMeasurement:
    """Measure factors, ratios and slopes for class-wise and for label errors.

    Args:
        model: the network, left untouched.
        inputs: [B, ...], the batch on which ``curvature`` was measured.
        labels: [B] or [B, T].
        curvature: rows of curvature.parquet of these weights; its h is compared with.
        loss: as in `analysis.measure.network.measure`.
        settings: as there.
        progress: called with (done, total).

    Raises:
        ValueError: no kind of errors can be measured, or sigma^2 exceeds its bound.
    """
    batch = (inputs, labels)
    rows = {str(name): layer for name, layer in curvature.groupby("layer", sort=False)}
    k = max(len(layer) for layer in rows.values())
    directions = gradient_directions(model, loss, batch, rows, k, settings=settings)
    _same(directions, rows)
    tables, summaries = [], []
    without = [name for name in rows if not supports(model.get_submodule(name))]
    notes = [f"no Kronecker factors of layer '{name}': {_kind(model, name)}" for name in without]
    for index, errors in enumerate(get_args(Errors)):
        try:
            sides = kronecker_sides(
                model, loss, batch, directions, errors=errors, settings=settings
            )
        except ValueError as error:
            if errors == "label":  # always possible: what is wrong is wrong
                raise
            notes.append(f"no {errors} errors: {error}")
            continue
        for name, side in sides.items():
            table = direction_rows(rows[name], side, errors)
            tables.append(table)
            summaries.append(layer_row(table, side))
        if progress is not None:
            progress(index + 1, len(get_args(Errors)))
    if not tables:
        raise ValueError("; ".join(notes) or "the loss sees no layer")
    return KroneckerMeasurement(
        pd.concat(tables, ignore_index=True), pd.DataFrame(summaries), notes
    )


def _kind(model: nn.Module, layer: str) -> str:
    module = model.get_submodule(layer)
    grouped = f" of {module.groups} groups" if getattr(module, "groups", 1) != 1 else ""
    return f"a {type(module).__name__}{grouped} is neither a Linear nor an ungrouped convolution"


def _same(directions: dict[str, Directions], rows: dict[str, pd.DataFrame]) -> None:
    """Refuse curvature that belongs to other weights or another batch."""
    for name, found in directions.items():
        sigma, stored = found.sigma.cpu(), rows[name]["sigma"].to_numpy()
        if len(sigma) != len(stored) or abs(sigma.numpy() - stored).max() > 1e-6 * stored.max():
            raise ValueError(f"layer '{name}': its curvature is of other weights or another batch")
