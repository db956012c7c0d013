"""Figures of a Hessian's blocks, from their measured table alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from analysis.figure.style import COLOURS
from analysis.run.measured import Measured

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
        raise ValueError("no blocks of a Hessian; python -m analysis.hessian_blocks measures them")
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
