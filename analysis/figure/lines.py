"""A chart of curves over seeds: lines with bands, a title, and a key below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.figure.style import DASHES, INK, PART, SOFT, logarithmic, look, number, styled

Array = NDArray[np.float64]

# Inches: readable at its own size and on a phone, where a page scales it to two thirds.
_WIDTH, _PLOT, _LEFT, _RIGHT, _TOP, _BOTTOM, _KEY = 6.0, 2.9, 0.75, 0.15, 0.52, 0.5, 0.18
_TWO_COLUMNS = 36  # letters that a name may have


@dataclass(frozen=True)
class Series:
    """A curve over seeds: ``x`` [n], ``middle`` [n] and the band ``low`` to ``high`` [n].

    ``place`` chooses colour and dash. ``dashed`` says so whatever the place; ``rings`` [n] are the
    radii, in points, of rings at the points; ``n``: how many runs it averages.
    """

    label: str
    place: int
    x: Array
    middle: Array
    low: Array
    high: Array
    dashed: bool | None = None
    rings: Array | None = None
    n: int = 0

    @property
    def drawn(self) -> bool:
        """Whether it is a line: a single point is none."""
        return bool(np.isfinite(self.middle).sum() > 1)

    @property
    def banded(self) -> bool:
        """Whether it has a band: lone runs have none."""
        return bool((self.low < self.high)[np.isfinite(self.middle)].any())


def chart(
    series: Sequence[Series],
    *,
    title: str,
    detail: str = "",
    x_label: str,
    y_label: str,
    log: bool = False,
    falling: bool = False,
    whole: bool = False,
    bare: bool = False,
) -> Figure | None:
    """Return a line chart with bands; values that are not finite are left out.

    Args:
        series: the curves, in the order of the key.
        title: of the figure; dataset and model.
        detail: a second line, of what is shown and how many seeds and epochs it is from.
        x_label: below.
        y_label: to the left.
        log: whether x, all of it above 0, is drawn on a logarithmic scale.
        falling: whether a better y is a smaller one (a loss): then the highest are cut off.
        whole: whether every point is shown, the worst too.
        bare: whether title and key are left to the page around it. Its script finds the line, the
            band and the ticks by their `PART`: "line-<place>", "band-<place>", "tick-x", "tick-y".

    Returns:
        None where no series is a line.
    """
    drawn = [one for one in series if one.drawn]
    if not drawn:
        return None
    columns = 2 if max(len(one.label) for one in drawn) <= _TWO_COLUMNS else 1
    key = 0.0 if bare else _KEY * -(-len(drawn) // columns) + 0.08
    height = (0.1 if bare else _TOP) + _PLOT + _BOTTOM + key
    with styled():
        figure = Figure(figsize=(_WIDTH, height))
        figure.set_layout_engine("none")
        box = (_LEFT / _WIDTH, (key + _BOTTOM) / height,
               (_WIDTH - _LEFT - _RIGHT) / _WIDTH, _PLOT / height)  # fmt: skip
        axes = figure.add_axes(box)
        for one in drawn:
            _draw(axes, one, cut=not whole)
        axes.margins(x=0.02)
        axes.set(xlabel=x_label, ylabel=y_label, ylim=_limits(drawn, falling, whole))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(number)
        if log:
            logarithmic(axes)
        across = axes.get_position().width * _WIDTH
        axes.yaxis.set_label_coords(-0.58 / across, 0.5)
        figure.set_label(f"{title}: {detail}")
        if bare:
            _name_parts(axes, drawn)
            return figure
        _frame(figure, title, detail, columns)
    return figure


def _frame(figure: Figure, title: str, detail: str, columns: int) -> None:
    """Write title and detail above, and the key below in so many columns."""
    left, height = 0.1 / _WIDTH, figure.get_figheight()
    figure.text(left, 1 - 0.2 / height, title, size=11, weight="bold", color=INK)
    figure.text(left, 1 - 0.39 / height, detail, size=9, color=SOFT)
    figure.legend(
        loc="lower left", bbox_to_anchor=(left, 0.02 / height), ncols=columns, fontsize=8.5,
        labelcolor=INK, borderaxespad=0, borderpad=0, labelspacing=0.45, handlelength=2.6,
        handletextpad=0.6, columnspacing=1.0,
    )  # fmt: skip


def _draw(axes: Axes, one: Series, *, cut: bool) -> None:
    good = np.isfinite(one.middle)
    style = look(one.place)
    if one.dashed is not None:
        style["linestyle"] = DASHES[1] if one.dashed else DASHES[0]
    x, low, high = one.x[good], one.low[good], one.high[good]
    if one.banded:
        axes.fill_between(x, low, high, color=style["color"], alpha=0.14, linewidth=0)
    axes.plot(x, one.middle[good], label=one.label, **style)
    if one.rings is not None:
        areas = np.square(2 * one.rings[good])
        areas = areas[:1] if (areas == areas[0]).all() else areas  # one shape in the file
        axes.scatter(x, one.middle[good], s=areas, facecolor="none",
                     edgecolor=style["color"], linewidth=1.4, clip_on=cut, zorder=3)  # fmt: skip


def _name_parts(axes: Axes, drawn: Sequence[Series]) -> None:
    for one, line in zip(drawn, axes.lines, strict=True):
        line.set_gid(f"{PART}line-{one.place}")
    banded = [one for one in drawn if one.banded]
    for one, band in zip(banded, axes.collections, strict=True):
        band.set_gid(f"{PART}band-{one.place}")
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        for tick in axis.get_major_ticks():
            tick.set_gid(f"{PART}tick-{name}")


def _limits(series: Sequence[Series], falling: bool, whole: bool) -> tuple[float, float]:
    """Return the least and the largest y to show.

    The first epochs, and their bands, would flatten all that follows: the worst quarter of the
    points is left out, and of the bands only the better side of the lines' ends is sure of room.
    """
    bands = [one.low if falling else one.high for one in series]
    ys = np.concatenate([one.middle for one in series])
    if whole:
        ys = np.concatenate([ys, *(end for one in series for end in (one.low, one.high))])
    shown = [0.0, 1.0] if whole else [0.0, 0.75] if falling else [0.25, 1.0]
    low, high = np.quantile(ys[np.isfinite(ys)], shown)
    ends = [end[np.isfinite(end)][-1] for end in bands if np.isfinite(end).any()]
    low, high = (min([low, *ends]), high) if falling else (low, max([high, *ends]))
    room = 0.05 * (high - low) or 0.5
    return float(low - room), float(high + room)
