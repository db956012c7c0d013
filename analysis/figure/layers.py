"""Figures of one network's layers, a panel a layer, from its measured directions alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from analysis import fits
from analysis.figure.exponents import RANK_MODELS
from analysis.figure.style import COLOURS
from analysis.measure.exponents import RELIABLE_POINTS, RELIABLE_R2

PANEL = (2.1, 1.9)  # inches


def power_law(directions: pd.DataFrame) -> Figure:
    """H against sigma of each layer, log-log: the points of the fit, its line, those left out.

    Args:
        directions: of one run and epoch; columns layer, k, sigma, h.
    """
    figure = _panels(directions, _power_law)
    figure.supxlabel("sigma", fontsize=10)
    figure.supylabel("abs(h)", fontsize=10)
    figure.suptitle(
        "h = c sigma^alpha: filled, in the fit; crosses, left out (h <= 0, shown as abs(h)); "
        "ring, k = 1",
        fontsize=8,
    )
    return figure


def rank_profiles(directions: pd.DataFrame) -> Figure:
    """Sigma against its rank, log-log, with three rank models; the winner by BIC is drawn thick."""
    figure = _panels(directions, _rank_profile)
    figure.supxlabel("k", fontsize=10)
    figure.supylabel("sigma", fontsize=10)
    handles = [Line2D([], [], marker="o", ls="", markersize=3, color="#444444", label="measured")]
    for index, words in enumerate(RANK_MODELS.values()):
        handles.append(Line2D([], [], color=COLOURS[index], label=words))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8)
    return figure


def _panels(directions: pd.DataFrame, draw: Callable[[Axes, pd.DataFrame], None]) -> Figure:
    layers = [group for _, group in directions.groupby("layer", sort=False)]
    columns = min(len(layers), max(3, int(np.ceil(np.sqrt(1.3 * len(layers))))))
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(PANEL[0] * columns + 0.4, PANEL[1] * rows + 0.8))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, layer in zip(grid, layers, strict=False):
        draw(axes, layer)
        axes.tick_params(labelsize=6, which="both")
        for axis in (axes.xaxis, axes.yaxis):
            _ticks(axis)
    for axes in grid[len(layers) :]:
        axes.set_visible(False)
    return figure


def _ticks(axis: Axis) -> None:
    """Label powers of ten; where there are fewer than two of them, 2 and 5 times these too."""
    low, high = axis.get_view_interval()
    decades = np.floor(np.log10(high)) - np.ceil(np.log10(low)) + 1
    axis.set_minor_locator(NullLocator())
    if decades < 2:
        few = LogLocator(subs=(1.0, 2.0, 5.0)) if high > 4 * low else MaxNLocator(3)
        axis.set_major_locator(few)
        axis.set_major_formatter(lambda value, _: f"{value:.3g}")


def _power_law(axes: Axes, layer: pd.DataFrame) -> None:
    layer = layer[layer["sigma"] > 0]
    sigma, h = layer["sigma"].to_numpy(), layer["h"].to_numpy()
    used = h > 0
    axes.set(xscale="log", yscale="log")
    axes.plot(sigma[used], h[used], "o", markersize=3, color=COLOURS[0])
    left_out = ~used & (h != 0)
    axes.plot(sigma[left_out], -h[left_out], "x", markersize=4, color=COLOURS[1])
    axes.plot(sigma[:1], np.abs(h[:1]), "o", markersize=7, markerfacecolor="none", color="#444444")
    fit = fits.fit_alpha(sigma, h)
    words = "no fit"
    if np.isfinite(fit.exponent):
        ends = np.array([sigma[used].min(), sigma[used].max()])
        axes.plot(ends, np.exp(fit.log_prefactor) * ends**fit.exponent, color="#444444", lw=1)
        mark = "" if fit.n_valid >= RELIABLE_POINTS and fit.r2 >= RELIABLE_R2 else " !"
        words = f"{fit.exponent:.2f} ± {fit.stderr:.2f}, R² {fit.r2:.2f}{mark}"
    axes.set_title(f"{_name(layer)}\n{words}", fontsize=7)


def _rank_profile(axes: Axes, layer: pd.DataFrame) -> None:
    layer = layer[layer["sigma"] > 0]
    k, sigma = layer["k"].to_numpy(dtype=np.float64), layer["sigma"].to_numpy()
    axes.set(xscale="log", yscale="log")
    axes.plot(k, sigma, "o", markersize=3, color="#444444")
    models, best = fits.rank_models(sigma), fits.best_rank_model(sigma)
    fine = np.geomspace(k.min(initial=1.0), k.max(initial=1.0), 100)
    t = np.log(fine)
    for index, name in enumerate(RANK_MODELS):
        own = models[name].coefficients  # type: ignore[index]
        curve = {
            "power_law": lambda c: c["log_c"] - c["gamma"] * t,
            "exponential": lambda c: c["log_c"] - c["beta"] * fine,
            "lognormal": lambda c: c["log_c"] + c["lin"] * t + c["quad"] * t**2,
        }[name](own)
        won = name == best
        axes.plot(fine, np.exp(curve), color=COLOURS[index], lw=2.0 if won else 0.8,
                  ls="-" if won else "--", zorder=3 if won else 1)  # fmt: skip
    axes.set_title(f"{_name(layer)}\n{RANK_MODELS[best] if best else 'no model'}", fontsize=7)


def _name(layer: pd.DataFrame) -> str:
    return str(layer["layer"].iloc[0]) if len(layer) else "no gradient"
