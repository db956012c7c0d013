"""All figures of what was measured, each as PNG and PDF, from the Parquet files alone.

`draw` makes those of many runs. `block_norms` and `block_map` show a Hessian's blocks, `landscape`
the decay with more data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from analysis.figure import exponents
from analysis.figure import exponents as layers
from analysis.figure.style import COLOURS, save, styled
from analysis.run.measured import Measured, last_epochs, load

_STATES = ("start", "trained")


def block_norms(measured: Measured) -> Figure:
    """The diagonal block of each role, a panel a network: every run, untrained and trained.

    Root mean square entry, with the 95 % interval where it is estimated.
    """
    roles = _roles(measured.blocks)
    own = roles[roles["row"] == roles["col"]]
    networks = list(own.groupby("network", sort=True))
    figure = Figure(figsize=(4.6 * len(networks) + 0.6, 3.8))
    grid = figure.subplots(1, len(networks), squeeze=False)[0]
    for axes, (name, group) in zip(grid, networks, strict=True):
        places = {role: i for i, role in enumerate(dict.fromkeys(group["row"]))}
        for index, (state, colour) in enumerate(zip(_STATES, COLOURS, strict=False)):
            rows = group[group["state"] == state]
            if rows.empty:
                continue
            at = rows["row"].map(places) + 0.24 * (index - 0.5)
            scale = rows["frobenius_per_entry"] / rows["frobenius"]
            low = (rows["frobenius"] - rows["frobenius_low"]) * scale
            high = (rows["frobenius_high"] - rows["frobenius"]) * scale
            axes.errorbar(at, rows["frobenius_per_entry"], yerr=[low, high], fmt="none",
                          ecolor=colour, elinewidth=0.9)  # fmt: skip
            inside = colour if state == "trained" else "white"
            axes.plot(at, rows["frobenius_per_entry"], "o", markersize=4.5, color=colour,
                      markerfacecolor=inside, label=state)  # fmt: skip
        axes.set(yscale="log", title=f"{name}\n({_count(group)}, {_methods(group)})")
        axes.set_xticks(list(places.values()), list(places), rotation=45, ha="right")
        axes.tick_params(axis="x", labelsize=8)
        axes.legend(loc="best", fontsize=8)
    grid[0].set_ylabel("root mean square entry of H_ii")
    return figure


def block_map(blocks: pd.DataFrame) -> Figure:
    """Every block by role, log10 of the root mean square entry: untrained and trained.

    Args:
        blocks: of one run, as `analysis.run.measured.Measured` holds them.
    """
    roles = _roles(blocks)
    states = [state for state in _STATES if (roles["state"] == state).any()]
    names = list(dict.fromkeys(roles["row"]))
    side = 0.42 * len(names) + 1.2
    figure = Figure(figsize=(side * len(states) + 1.8, side + 1.1))
    grid = figure.subplots(1, len(states), squeeze=False)[0]
    logs = np.log10(roles["frobenius_per_entry"].where(roles["frobenius_per_entry"] > 0))
    low, high = float(np.floor(logs.quantile(0.02))), float(np.ceil(logs.max()))
    for axes, state in zip(grid, states, strict=True):
        rows = roles[roles["state"] == state]
        image = _map(axes, rows.assign(log=logs), names, Normalize(low, high))
        epoch, method = rows["epoch"].iloc[0], rows["method"].iloc[0]
        axes.set_title(f"{state} (epoch {epoch:g}, {method})", fontsize=9)
    grid[0].set_yticks(range(len(names)), names, fontsize=8)
    figure.colorbar(image, ax=list(grid), label="log10 root mean square entry", shrink=0.8)
    return figure


def _map(axes: Axes, rows: pd.DataFrame, names: list[str], norm: Normalize) -> AxesImage:
    place = {name: i for i, name in enumerate(names)}
    values = np.full((len(names), len(names)), np.nan)
    for row in rows.to_dict("records"):
        i, j = place[row["row"]], place[row["col"]]
        values[i, j] = values[j, i] = row["log"]
    image = axes.imshow(values, cmap="viridis", norm=norm)
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = norm(value) < 0.6
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=6,
                      color="white" if dark else "black")  # fmt: skip
    axes.grid(visible=False)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def _roles(blocks: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by role, of each run's epoch 0 (start) and last epoch (trained).

    Raises:
        ValueError: there are none.
    """
    if blocks.empty or not (blocks["level"] == "role").any():
        raise ValueError("no blocks of a Hessian; spectral-bench hessian-blocks measures them")
    rows = blocks[blocks["level"] == "role"]
    last = rows.groupby("run")["step"].transform("max")
    rows = rows[(rows["epoch"] == 0) | (rows["step"] == last)]
    names = [
        f"{model}/{dataset}" if pd.notna(model) and pd.notna(dataset) else str(run)
        for model, dataset, run in zip(rows["model"], rows["dataset"], rows["run"], strict=True)
    ]
    state = np.where(rows["epoch"] == 0, "start", "trained")
    return rows.assign(network=names, state=state)


def _count(group: pd.DataFrame) -> str:
    number = group["run"].nunique()
    return f"{number} run{'s' * (number > 1)}"


def _methods(group: pd.DataFrame) -> str:
    return " and ".join(sorted(set(group["method"])))


def landscape(windows: pd.DataFrame, points: pd.DataFrame) -> Figure:
    """Left: the change of the mean loss by one more sample, against k, with its null.

    Right: what is not forced, the constant (k + 1) times the change, against the distance from the
    trained weights, beside the mean loss there.

    Args:
        windows: of one run and step, as `analysis.run.measured.Measured` holds them.
        points: of the same run and step.
    """
    figure = Figure(figsize=(8.6, 3.6))
    left, right = figure.subplots(1, 2)
    places = sorted(set(windows["place"]))
    for place, colour, words in zip(
        (places[0], places[-1]), COLOURS, ("trained", "start"), strict=False
    ):
        rows = windows[windows["place"] == place].sort_values("k")
        fit = points[points["place"] == place].iloc[0]
        left.fill_between(rows["k"], rows["null_low"], rows["null_high"], color=colour, alpha=0.18,
                          linewidth=0)  # fmt: skip
        label = f"{words}: exponent {-fit['exponent']:.2f} ± {fit['exponent_stderr']:.2f}"
        left.plot(rows["k"], rows["change"], "o-", markersize=3, linewidth=0.9, color=colour,
                  label=label)  # fmt: skip
        if len(places) == 1:
            break
    _forced(left, windows, points, places[0])
    left.set(xscale="log", yscale="log", xlabel="samples k",
             ylabel="$|L_{k+1} - L_k|$, mean of a window of k")  # fmt: skip
    left.legend(loc="lower left", fontsize=8, title="bands: 95 % of shuffled orders",
                title_fontsize=7)  # fmt: skip
    _constants(right, points.sort_values("distance"))
    return figure


def _forced(axes: Axes, windows: pd.DataFrame, points: pd.DataFrame, place: float) -> None:
    k = np.sort(windows.loc[windows["place"] == place, "k"].to_numpy(dtype=np.float64))
    constant = float(points.loc[points["place"] == place, "constant"].iloc[0])
    axes.plot(k, constant / (k + 1), color="#444444", linewidth=1, linestyle="--",
              label="constant / (k + 1): forced")  # fmt: skip


def _constants(axes: Axes, points: pd.DataFrame) -> None:
    drawn = {
        "constant": ("constant: mean $(k+1)\\,|L_{k+1} - L_k|$", "o-", COLOURS[0]),
        "loss": ("mean loss", "s-", COLOURS[2]),
        "quadratic": ("$L(w^*) + d^T H d\\, r^2 / 2$", ":", "#444444"),
    }
    for name, (label, style, colour) in drawn.items():
        axes.plot(points["distance"], points[name], style, markersize=3.5, linewidth=1.1,
                  color=colour, label=label)  # fmt: skip
    axes.set(xlabel="distance r from the trained weights", yscale="log")
    axes.legend(loc="best", fontsize=8)


OF_ALL: dict[str, Callable[[Measured], Figure]] = {
    "alpha_depth": exponents.alpha_depth,
    "triangle": exponents.triangle,
    "winners": exponents.winners,
    "alpha_training": exponents.alpha_training,
    "kronecker": exponents.kronecker,
    "block_norms": block_norms,
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
        yield f"block_map-{run}", block_map(rows)
    if measured.points.empty or measured.windows.empty:
        yield "landscape: skipped, no landscape.parquet and landscape_fits.parquet there", None
        return
    for run, rows in _one_of_each(measured.points):
        windows = measured.windows[measured.windows["run"] == run]
        figure = landscape(last_epochs(windows), last_epochs(rows))
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
