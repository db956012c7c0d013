"""Optimizers across tasks: mean ranks with their intervals, and performance profiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from analysis.figure.style import INK, SOFT, look, number, styled
from analysis.judge.across import MeanRank

Array = NDArray[np.float64]

# Inches.
_WIDTH, _ROW, _TOP, _LEFT, _RIGHT, _PROFILE, _GAP, _LABELS = 6.0, 0.3, 0.55, 1.5, 0.2, 1.6, 0.4, 0.5


def ranks_and_profiles(
    ranks: Sequence[MeanRank],
    places: Sequence[int],
    profiles: Sequence[tuple[str, Array, Array]],
    *,
    title: str,
    detail: str,
) -> Figure:
    """Draw mean ranks (thick: 95 % over seeds, thin: over seeds and tasks) above profiles.

    Args:
        ranks: a row each, the best first.
        places: of each, for its colour.
        profiles: of each its axis, ratios [r] and shares [methods, r], methods as in ``ranks``.
        title: of the figure.
        detail: a second line.
    """
    rows = _ROW * len(ranks) + 0.15
    height = _TOP + rows + _LABELS + (_GAP + _PROFILE + _LABELS if profiles else 0)
    with styled():
        figure = Figure(figsize=(_WIDTH, height))
        figure.set_layout_engine("none")
        figure.set_label(f"{title}: {detail}")
        left = 0.1 / _WIDTH
        figure.text(left, 1 - 0.2 / height, title, size=11, weight="bold", color=INK)
        figure.text(left, 1 - 0.4 / height, detail, size=9, color=SOFT)
        across = _WIDTH - _LEFT - _RIGHT
        bottom = height - _TOP - rows
        axes = figure.add_axes((_LEFT / _WIDTH, bottom / height, across / _WIDTH, rows / height))
        _ranks(axes, ranks, places)
        wide = (_WIDTH - 0.7 - _RIGHT - (len(profiles) - 1) * 0.45) / max(len(profiles), 1)
        for k, (words, ratios, shares) in enumerate(profiles):
            x = 0.7 + k * (wide + 0.45)
            box = (x / _WIDTH, _LABELS / height, wide / _WIDTH, _PROFILE / height)
            _profile(figure.add_axes(box), places, ratios, shares, words, first=k == 0)
    return figure


def _ranks(axes: Axes, ranks: Sequence[MeanRank], places: Sequence[int]) -> None:
    for k, (one, place) in enumerate(zip(ranks, places, strict=True)):
        colour = look(place)["color"]
        for ends, width in ((one.over_tasks, 1.2), (one.over_seeds, 4.0)):
            if not math.isnan(ends.low):
                axes.plot(ends, (k, k), color=colour, linewidth=width, solid_capstyle="butt")
        axes.plot([one.rank], [k], "o", color=colour, markersize=6.5, zorder=3)
    axes.set(xlim=(0.9, len(ranks) + 0.1), ylim=(len(ranks) - 0.5, -0.5))
    axes.set_yticks(range(len(ranks)), [one.method for one in ranks])
    axes.set_xticks(range(1, len(ranks) + 1))
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_xlabel("mean rank (1 is the best)")
    axes.grid(axis="y", visible=False)


def _profile(
    axes: Axes, places: Sequence[int], ratios: Array, shares: Array, words: str, *, first: bool
) -> None:
    for place, line in zip(places, shares, strict=True):
        axes.step(ratios, line, where="post", **look(place))
    axes.set_xscale("log")
    ticks = [tick for tick in (1, 1.25, 1.5, 2, 3, 4) if tick <= ratios[-1]]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(number)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlim=(ratios[0], ratios[-1]), ylim=(-0.03, 1.05))
    axes.set_xlabel("factor of the best")
    axes.set_title(words, fontsize=9, loc="left", color=INK)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    if first:
        axes.set_ylabel("share of sections")
