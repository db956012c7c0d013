"""The figure of a landscape's decay with more data, from its measured tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figure.style import COLOURS


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
    for name, (words, style, colour) in drawn.items():
        axes.plot(points["distance"], points[name], style, markersize=3.5, linewidth=1.1,
                  color=colour, label=words)  # fmt: skip
    axes.set(xlabel="distance r from the trained weights", yscale="log")
    axes.legend(loc="best", fontsize=8)
