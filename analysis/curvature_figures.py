"""All figures of what was measured, each as PNG and PDF, from the Parquet files alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import exponent_plots, layer_plots
from analysis.figure_style import save, styled
from analysis.measured import Measured, last_epochs, load

OF_ALL: dict[str, Callable[[Measured], Figure]] = {
    "alpha_depth": exponent_plots.alpha_depth,
    "triangle": exponent_plots.triangle,
    "winners": exponent_plots.winners,
    "alpha_training": exponent_plots.alpha_training,
    "kronecker": exponent_plots.kronecker,
}
OF_A_RUN: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "power_law": layer_plots.power_law,
    "rank_profiles": layer_plots.rank_profiles,
}


def draw(sources: Sequence[str], out: Path) -> Iterator[str]:
    """Draw every figure that ``sources`` allow into the folder ``out``; yield a line for each.

    One of each kind in `OF_ALL`; those in `OF_A_RUN`, a panel a layer, of the last epoch of the
    first run (by name) of each model, dataset and optimizer. The same tables give the same bytes.

    Raises:
        ValueError: as `analysis.measured.load`.
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
        if measured.directions.empty:
            yield f"{', '.join(OF_A_RUN)}: skipped, no curvature.parquet there"
            return
        for run, rows in _one_of_each(measured.directions):
            for name, of_run in OF_A_RUN.items():
                yield _saved(of_run(rows), out / f"{name}-{run}")


def _one_of_each(directions: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    last = last_epochs(directions)
    keys = ["model", "dataset", "optimizer"]
    for _, group in last.groupby(keys, sort=True, dropna=False):
        named = group if group["model"].notna().any() else None
        for run in sorted(set(group["run"]))[: 1 if named is not None else None]:
            yield run, group[group["run"] == run]


def _saved(figure: Figure, stem: Path) -> str:
    for suffix in (".png", ".pdf"):
        save(figure, stem.with_name(stem.name + suffix))
    return f"{stem}.png, .pdf"
