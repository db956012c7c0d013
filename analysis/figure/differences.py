"""Differences of one method from others: dots with intervals, the better to the right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figure.style import INK, PAGE, SOFT, look, number, styled

# Inches.
_WIDTH, _ROW, _PAD, _TOP, _BETWEEN, _BOTTOM, _SIDE, _GAP, _RIGHT = (
    6.0, 0.34, 0.16, 0.86, 0.62, 0.1, 1.45, 0.25, 0.15
)  # fmt: skip
_LETTER = 0.078  # of a row's name, at its size
_OFF = 0.16  # of a row, between the dots of two others


@dataclass(frozen=True)
class Difference:
    """A mean difference from ``other`` with its interval; ``decided``: it has a verdict."""

    row: int
    other: str
    middle: float
    low: float
    high: float
    decided: bool


@dataclass(frozen=True)
class Column:
    """What is compared: its words, and 1 where a larger difference is better, -1 where less is."""

    words: str
    direction: int


@dataclass(frozen=True)
class Panel:
    """One place: names of its rows, and for each column the differences that there are."""

    title: str
    rows: Sequence[str]
    differences: Sequence[Sequence[Difference]]


def differences(
    panels: Sequence[Panel],
    columns: Sequence[Column],
    colours: Mapping[str, int],
    *,
    title: str,
    detail: str,
) -> Figure:
    """Draw the panels below each other, each with a scale of its own.

    A full dot has a verdict, an empty one has none.

    Args:
        panels: from top to bottom; each has as many lists of differences as there are columns.
        columns: from left to right.
        colours: the place of each other method, for its colour.
        title: of the figure.
        detail: a second line.
    """
    tall = [_ROW * len(panel.rows) + _PAD for panel in panels]
    height = _TOP + sum(tall) + _BETWEEN * len(panels) + _BOTTOM
    side = max(_SIDE, 0.2 + _LETTER * max(len(row) for panel in panels for row in panel.rows))
    wide = (_WIDTH - side - _RIGHT - _GAP * (len(columns) - 1)) / len(columns)
    with styled():
        figure = Figure(figsize=(_WIDTH, height))
        figure.set_layout_engine("none")
        figure.set_label(f"{title}: {detail}")
        left = 0.1 / _WIDTH
        figure.text(left, 1 - 0.2 / height, title, size=11, weight="bold", color=INK)
        figure.text(left, 1 - 0.4 / height, detail, size=8.5, color=SOFT)
        for k, column in enumerate(columns):
            x = side + k * (wide + _GAP) + wide / 2
            figure.text(x / _WIDTH, 1 - 0.68 / height, column.words, size=9, color=SOFT,
                        ha="center")  # fmt: skip
        top = height - _TOP
        for panel, own in zip(panels, tall, strict=True):
            top -= 0.18
            figure.text(left, top / height + 0.05 / height, panel.title, size=9, weight="bold",
                        color=INK)  # fmt: skip
            for k, column in enumerate(columns):
                x = side + k * (wide + _GAP)
                box = (x / _WIDTH, (top - own) / height, wide / _WIDTH, own / height)
                _draw(figure.add_axes(box), panel, k, column, colours, named=k == 0)
            top -= own + _BETWEEN - 0.18
        others = dict.fromkeys(
            one.other for panel in panels for some in panel.differences for one in some
        )
        figure.legend(
            handles=_key(list(others), colours), loc="lower left", fontsize=8.5, ncols=4,
            bbox_to_anchor=(left, 0.03 / height), labelcolor=INK, borderaxespad=0, borderpad=0,
            handletextpad=0.2, columnspacing=1.2,
        )  # fmt: skip
    return figure


def _draw(
    axes: Axes, panel: Panel, k: int, column: Column, colours: Mapping[str, int], *, named: bool
) -> None:
    others = list(dict.fromkeys(one.other for some in panel.differences for one in some))
    for one in panel.differences[k]:
        y = one.row + _OFF * (2 * others.index(one.other) - len(others) + 1)
        colour = look(colours[one.other])["color"]
        if not math.isnan(one.low):
            axes.plot((one.low, one.high), (y, y), color=colour, linewidth=1.4)
        axes.plot(
            [one.middle], [y], "o", color=colour, markersize=5.5, zorder=3,
            markerfacecolor=colour if one.decided else PAGE,
        )  # fmt: skip
    axes.axvline(0, color=SOFT, linewidth=1.0, zorder=1)
    axes.set_ylim(len(panel.rows) - 0.5, -0.5)
    axes.set_yticks(range(len(panel.rows)), panel.rows if named else [""] * len(panel.rows))
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=8.5)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(number)
    if column.direction < 0:
        axes.invert_xaxis()


def _key(others: Sequence[str], colours: Mapping[str, int]) -> list[Line2D]:
    def dot(colour: str, label: str, *, full: bool) -> Line2D:
        face = colour if full else PAGE
        return Line2D([], [], marker="o", linestyle="", color=colour, markerfacecolor=face,
                      markersize=5.5, label=label)  # fmt: skip

    named = [dot(look(colours[name])["color"], f"from {name}", full=True) for name in others]
    return [*named, dot(SOFT, "verdict", full=True), dot(SOFT, "undecided", full=False)]
