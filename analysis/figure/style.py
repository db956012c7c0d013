"""One look for every figure: colours that colour-blind readers can tell apart, thin frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

# Okabe and Ito (2008), without yellow, which is too pale on paper.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7b4fb5", "#444444")
DASHES = ("-", "--", ":")
MARKERS = ("o", "s", "^")
_WITHIN = 6  # names of series that leave room for the series

_STYLE: dict[Any, Any] = {
    "figure.figsize": (6.0, 3.6),
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d9dee3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "svg.hashsalt": "spectral-bench",  # the same data give the same file
    "pdf.fonttype": 42,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this look, without a display, until the block ends."""
    with mpl.rc_context(_STYLE):
        yield


def new_axes() -> tuple[Figure, Axes]:
    """Return a figure of one plot; it belongs to no window system."""
    figure = Figure()
    return figure, figure.subplots()


def look(index: int) -> dict[str, Any]:
    """Return colour and dash of the ``index``-th series."""
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": dash}


def marker(index: int) -> dict[str, Any]:
    """Return colour and marker of the ``index``-th series of points."""
    shape = MARKERS[index // len(COLOURS) % len(MARKERS)]
    return {"color": look(index)["color"], "marker": shape}


def logarithmic(axes: Axes) -> None:
    """Draw x on a logarithmic scale whose numbers people read: 1, 2, 5, 10."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, axes: Axes) -> None:
    """Name the series: within the plot where they are few, beside it in a wider figure else."""
    if len(axes.get_legend_handles_labels()[1]) <= _WITHIN:
        axes.legend()
        return
    width, height = figure.get_size_inches()
    figure.set_size_inches(1.4 * width, height)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` by the suffix of ``path`` (.png, .svg, .pdf), without a date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    figure.savefig(path, metadata=undated.get(path.suffix, {}))
