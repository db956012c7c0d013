"""All figures of what was measured, each as PNG and PDF, from the Parquet files alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.figure import blocks, exponents, landscape, layers
from analysis.figure.style import save, styled
from analysis.run.measured import Measured, last_epochs, load

OF_ALL: dict[str, Callable[[Measured], Figure]] = {
    "alpha_depth": exponents.alpha_depth,
    "triangle": exponents.triangle,
    "winners": exponents.winners,
    "alpha_training": exponents.alpha_training,
    "kronecker": exponents.kronecker,
    "block_norms": blocks.block_norms,
}
OF_A_RUN: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "power_law": layers.power_law,
    "rank_profiles": layers.rank_profiles,
}


def draw(sources: Sequence[str], out: Path) -> Iterator[str]:
    """Draw every figure that ``sources`` allow into the folder ``out``; yield a line for each.

    One of each kind in `OF_ALL`; those of a single run (a panel a layer of its last epoch, the map
    of its Hessian's blocks, its landscape) of the first run (by name) of each model, dataset and
    optimizer. The same tables give the same bytes.

    Raises:
        ValueError: as `analysis.run.measured.load`.
        OSError: a figure cannot be written.
    """
    measured = load(sources)
    with styled():
        for name, plot in OF_ALL.items():
            try:
                figure = plot(measured)
            except ValueError as missing:
                yield f"{name}: skipped, {missing}"
                continue
            yield _saved(figure, out / name)
        for name, of_run in _of_runs(measured):
            yield _saved(of_run, out / name) if of_run else name


def _of_runs(measured: Measured) -> Iterator[tuple[str, Figure | None]]:
    """Yield the figures of single runs by name; in place of a figure that cannot be, a line."""
    if measured.directions.empty:
        yield f"{', '.join(OF_A_RUN)}: skipped, no curvature.parquet there", None
    for run, rows in _one_of_each(measured.directions):
        for name, plot in OF_A_RUN.items():
            yield f"{name}-{run}", plot(last_epochs(rows))
    if measured.blocks.empty:
        yield "block_map: skipped, no hessian_blocks.parquet there", None
    for run, rows in _one_of_each(measured.blocks):
        yield f"block_map-{run}", blocks.block_map(rows)
    if measured.points.empty or measured.windows.empty:
        yield "landscape: skipped, no landscape.parquet and landscape_fits.parquet there", None
        return
    for run, rows in _one_of_each(measured.points):
        windows = measured.windows[measured.windows["run"] == run]
        figure = landscape.landscape(last_epochs(windows), last_epochs(rows))
        yield f"landscape-{run}", figure


def _one_of_each(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the first run of each model, dataset and optimizer; every one that has no such name."""
    if table.empty:
        return
    keys = ["model", "dataset", "optimizer"]
    for _, group in table.groupby(keys, sort=True, dropna=False):
        named = bool(group["model"].notna().any())
        for run in sorted(set(group["run"]))[: 1 if named else None]:
            yield run, group[group["run"] == run]


def _saved(figure: Figure, stem: Path) -> str:
    for suffix in (".png", ".pdf"):
        save(figure, stem.with_name(stem.name + suffix))
    return f"{stem}.png, .pdf"
