"""Figures of exponents over layers, networks and training, from measured tables alone.

Each function takes `analysis.run.measured.Measured` and returns a figure; ValueError says in one
line what is not there to draw. Layers that are marked unreliable are drawn hollow. `power_law` and
`rank_profiles` show one network's measured directions, a panel a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from analysis import fits
from analysis.claim.model import column
from analysis.figure.style import COLOURS, look
from analysis.measure import exponents
from analysis.measure.exponents import RELIABLE_POINTS, RELIABLE_R2
from analysis.run.measured import Measured, last_epochs

RANK_MODELS = {"power_law": "power law", "exponential": "exponential", "lognormal": "log-normal"}
# Qualities of the Kronecker approximation, and what each is where it is perfect.
_KRONECKER = {
    "chi_slope": (0.0, "d ln chi / d ln sigma"),
    "iad_median": (1.0, "concentration ratio"),
    "identity_correlation": (1.0, "correlation of ln h_kron and ln sigma²"),
}
_SHORT = "{:g}"


def alpha_depth(measured: Measured) -> Figure:
    """Alpha of each layer at the last epoch against its depth, a colour an architecture."""
    layers = last_epochs(_layers(measured)).dropna(subset=["alpha"])
    figure = Figure(figsize=(7.0, 4.0))
    axes = figure.subplots()
    axes.axhline(2, color="#888888", linewidth=1)
    for index, (name, group) in enumerate(_networks(layers)):
        colour = look(index)["color"]
        across = group.groupby(["depth", "layer"], sort=True)
        at = across["alpha"].mean().reset_index()
        axes.plot(at["depth"], at["alpha"], linewidth=0.8, alpha=0.6, **look(index))
        low, high = (
            (group[end] - group["alpha"]).abs().fillna(0) for end in ("alpha_low", "alpha_high")
        )
        axes.errorbar(
            group["depth"], group["alpha"], yerr=[low, high], fmt="none", ecolor=colour,
            elinewidth=0.7, alpha=0.35,
        )  # fmt: skip
        _points(axes, group, "depth", "alpha", colour=colour, label=name)
    _clip(axes, layers["alpha"])
    axes.set(xlabel="depth (0: first layer, 1: last)", ylabel="alpha")
    _legend(axes, "hollow: unreliable; bars: 95 % of the fit")
    return figure


def triangle(measured: Measured) -> Figure:
    """S of each layer against alpha * gamma, with what the identity's nulls alone would give."""
    layers = last_epochs(_layers(measured))
    layers = layers[(layers["s"] > 0) & (layers["predicted_s"] > 0)]
    if layers.empty:
        raise ValueError("no layer has a positive s and alpha * gamma")
    figure = Figure(figsize=(7.6, 4.6))
    axes = figure.subplots()
    both = pd.concat([layers["s"], layers["predicted_s"]])
    ends = np.array([both.min() / 1.3, both.max() * 1.3])
    axes.plot(ends, ends, color="#444444", linewidth=1, label="s = alpha * gamma")
    other = layers.get("null_other_error", pd.Series(dtype="float64")).median()
    if np.isfinite(other):  # abs(s - p) / s <= e between p / (1 + e) and p / (1 - e)
        for factor in (1 + other, max(1 - other, 1e-3)):
            axes.plot(ends, ends / factor, color="#b58900", linewidth=0.9, linestyle="--")
        axes.lines[-1].set_label(f"another layer's h: median error, {100 * other:.0f} %")
    _noise_bars(axes, measured, layers)
    for index, (name, group) in enumerate(_networks(layers)):
        _points(axes, group, "predicted_s", "s", colour=look(index)["color"], label=name)
    axes.set(
        xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="alpha * gamma", ylabel="s",
    )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_plain)
        axis.set_minor_formatter(_plain_minor)
    _legend(axes, "hollow: unreliable")
    return figure


def winners(measured: Measured) -> Figure:
    """The share of layers whose gradient spectrum each rank model wins by BIC, over training."""
    layers = _layers(measured)
    layers = layers[layers["rank_model"].notna()]
    networks = list(_networks(layers))
    if not networks:
        raise ValueError("no rank model was fitted")
    figure = Figure(figsize=(3.2 * len(networks) + 0.6, 3.2))
    grid = figure.subplots(1, len(networks), squeeze=False, sharey=True)[0]
    for axes, (name, group) in zip(grid, networks, strict=True):
        counts = pd.crosstab(group["epoch"], group["rank_model"], normalize="index")
        shares = counts.reindex(columns=list(RANK_MODELS), fill_value=0.0)
        for index, (model, label) in enumerate(RANK_MODELS.items()):
            axes.plot(shares.index, 100 * shares[model], "o", markersize=4, label=label,
                      linestyle=look(index)["linestyle"], color=look(index)["color"])  # fmt: skip
        runs, layers_of = group["run"].nunique(), group["layer"].nunique()
        counted = f"{layers_of} layers" + (f", {runs} runs" if runs > 1 else "")
        axes.set(title=f"{name}\n({counted})", xlabel="epoch", ylim=(-4, 104))
    grid[0].set_ylabel("layers won by BIC (%)")
    grid[-1].legend(loc="best", fontsize=8)
    return figure


def alpha_training(measured: Measured) -> Figure:
    """Alpha of each layer over training: a panel a network, colour by depth, thick their median."""
    layers = _layers(measured)
    networks = [(name, group) for name, group in _networks(layers) if group["epoch"].nunique() > 1]
    if not networks:
        raise ValueError("no run was measured at several epochs; trainer.curvature_every does that")
    figure = Figure(figsize=(3.2 * len(networks) + 1.2, 3.2))
    grid = figure.subplots(1, len(networks), squeeze=False, sharey=True)[0]
    colours = colormaps["viridis"]
    for axes, (name, group) in zip(grid, networks, strict=True):
        axes.axhline(2, color="#888888", linewidth=1)
        for _, lines in group.groupby(["run", "layer"], sort=True):
            shade = colours(0.9 * float(lines["depth"].iloc[0]))
            axes.plot(lines["epoch"], lines["alpha"], color=shade, linewidth=0.9, alpha=0.8)
        middle = group.groupby("epoch")["alpha"].median()
        axes.plot(middle.index, middle, color="black", linewidth=2.2, label="median")
        axes.set(title=name, xlabel="epoch")
    _clip(grid[0], layers["alpha"])
    grid[0].set_ylabel("alpha")
    grid[0].legend(loc="best", fontsize=8)
    scale = ScalarMappable(Normalize(0, 1 / 0.9), colours)
    bar = figure.colorbar(scale, ax=list(grid), label="depth of the layer", shrink=0.9)
    bar.ax.set_ylim(0, 1)
    return figure


def exponent_map(measured: Measured, name: str) -> Figure:
    """An exponent by layer and epoch, the mean over seeds: a panel an optimizer's variant.

    Args:
        measured: of one network.
        name: alpha (its colours part at 2), gamma or s. A dot marks a cell with a fit that is not
            reliable.

    Raises:
        ValueError: no exponents.
    """
    layers = _layers(measured).merge(measured.runs[["id", "variant"]], left_on="run", right_on="id")
    groups = list(layers.groupby(["optimizer", "variant"], sort=True, dropna=False))
    order = layers.sort_values("depth", kind="stable")["layer"].unique()
    height = 0.8 + 0.22 * len(order)
    figure = Figure(figsize=(3.0 * len(groups) + 2.4, max(height, 2.4)))
    grid = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    low, high = np.nanquantile(layers[name], [0.02, 0.98])
    far = max(abs(low - 2), abs(high - 2), 0.1)
    norm = Normalize(2 - far, 2 + far) if name == "alpha" else Normalize(low, high)
    colours = colormaps["PuOr" if name == "alpha" else "viridis"]
    optimizers = [optimizer for (optimizer, _), _ in groups]
    for axes, ((optimizer, variant), group) in zip(grid, groups, strict=True):
        cells = group.pivot_table(name, "layer", "epoch", dropna=False).reindex(order)
        sure = group.pivot_table("reliable", "layer", "epoch", aggfunc="min").reindex(order)
        axes.imshow(cells, aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
        y, x = np.nonzero(sure.to_numpy(dtype=float) == 0)
        axes.plot(x, y, ".", color="#888888", markersize=3)
        seeds = group["run"].nunique()
        which = f" {str(variant)[:6]}" if optimizers.count(optimizer) > 1 else ""
        axes.set_title(f"{optimizer}{which}\n({seeds} seed{'s' if seeds > 1 else ''})")
        axes.set_xticks(range(cells.shape[1]), [f"{epoch:g}" for epoch in cells.columns])
        axes.set_xlabel("epoch")
        axes.grid(visible=False)
    grid[0].set_yticks(range(len(order)), order, fontsize=7)
    figure.colorbar(ScalarMappable(norm, colours), ax=list(grid), label=name, extend="both")
    return figure


def kronecker(measured: Measured) -> Figure:
    """How far alpha is from 2 against how far the Kronecker approximation is from exact."""
    layers = last_epochs(_layers(measured))
    there = [name for name in _KRONECKER if name in layers.columns and layers[name].notna().any()]
    if not there:
        raise ValueError(f"no column of Kronecker quality ({', '.join(_KRONECKER)})")
    figure = Figure(figsize=(3.4 * len(there) + 0.6, 3.4))
    grid = figure.subplots(1, len(there), squeeze=False, sharey=True)[0]
    for axes, quality in zip(grid, there, strict=True):
        exact, label = _KRONECKER[quality]
        frame = layers.assign(distance=column(layers, "alpha_distance"))
        for index, (name, group) in enumerate(_networks(frame)):
            _points(axes, group, quality, "distance", colour=look(index)["color"], label=name)
        axes.axvline(exact, color="#888888", linewidth=1)
        axes.set_xlabel(label)
    grid[0].set_ylabel("abs(alpha - 2)")
    grid[-1].legend(loc="best", fontsize=8)
    return figure


def _layers(measured: Measured) -> pd.DataFrame:
    if measured.layers.empty:
        raise ValueError("no exponents were measured")
    return measured.layers


def _networks(layers: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (model/dataset, its rows); tables without a run are named after their folder."""
    names = [
        f"{model}/{dataset}" if pd.notna(model) and pd.notna(dataset) else str(run)
        for model, dataset, run in zip(
            layers["model"], layers["dataset"], layers["run"], strict=True
        )
    ]
    for name, group in layers.groupby(pd.Series(names, layers.index), sort=True):
        yield str(name), group


def _points(axes: Axes, rows: pd.DataFrame, x: str, y: str, *, colour: str, label: str) -> None:
    sure = rows["reliable"].to_numpy(dtype=bool)
    style: dict[str, Any] = {"s": 22, "linewidth": 1.0, "edgecolor": colour, "zorder": 3}
    axes.scatter(rows[x][sure], rows[y][sure], color=colour, label=label, **style)
    axes.scatter(
        rows[x][~sure], rows[y][~sure], facecolor="white",
        label=None if sure.any() else label, **style,
    )  # fmt: skip


def _noise_bars(axes: Axes, measured: Measured, layers: pd.DataFrame) -> None:
    """Draw, for each layer, where 95 % of the noise null's draws of s lie; needs the directions."""
    if measured.directions.empty:
        return
    keys = zip(layers["run"], layers["layer"], strict=True)
    predicted = dict(zip(keys, layers["predicted_s"], strict=True))
    at, low, high = [], [], []
    for key, rows in last_epochs(measured.directions).groupby(["run", "layer"], sort=True):
        draws = exponents.noise_errors(rows["sigma"], rows["h"])
        run, layer = map(str, key)
        if (run, layer) in predicted and len(draws):
            p, error = float(predicted[run, layer]), float(np.quantile(draws, 0.95))
            at.append(p)
            low.append(p / (1 + error))
            high.append(p / max(1 - error, 1e-3))
    label = "power law with noise: 95 % of draws"
    axes.vlines(at, low, high, color="#c3d0dc", linewidth=6, label=label, zorder=1)


def _clip(axes: Axes, values: pd.Series[float]) -> None:
    """Keep the axis to where nearly all values are: one wild layer must not flatten the others."""
    low, high = np.nanquantile(values, [0.02, 0.98])
    room = 0.25 * max(high - low, 0.5)
    axes.set_ylim(min(low, 2) - room, max(high, 2) + room)


def _legend(axes: Axes, note: str) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, title=note,
                title_fontsize=7)  # fmt: skip


def _plain(value: float, _: object) -> str:
    return _SHORT.format(value)


def _plain_minor(value: float, _: object) -> str:
    """Label only 2 and 5 of the minor ticks."""
    leading = value / 10 ** np.floor(np.log10(value))
    return _SHORT.format(value) if round(leading) in (2, 5) else ""


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
    for index, label in enumerate(RANK_MODELS.values()):
        handles.append(Line2D([], [], color=COLOURS[index], label=label))
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
    text = "no fit"
    if np.isfinite(fit.exponent):
        ends = np.array([sigma[used].min(), sigma[used].max()])
        axes.plot(ends, np.exp(fit.log_prefactor) * ends**fit.exponent, color="#444444", lw=1)
        mark = "" if fit.n_valid >= RELIABLE_POINTS and fit.r2 >= RELIABLE_R2 else " !"
        text = f"{fit.exponent:.2f} ± {fit.stderr:.2f}, R² {fit.r2:.2f}{mark}"
    axes.set_title(f"{_name(layer)}\n{text}", fontsize=7)


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
