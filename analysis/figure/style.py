"""One look for every figure, and the files of figures: PNG, PDF, and SVG for light and dark pages.

The same figure gives the same bytes: text stays text, at fixed places, in the font that matplotlib
brings with it; an SVG's coordinates are rounded, so that neither another machine's last digits nor
its fonts show.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator

# After Okabe and Ito (2008), moved until any two are apart for colour-blind readers too; dark
# enough for white.
COLOURS = ("#116cb4", "#d86200", "#009e73", "#b0418a", "#795d00", "#2e9bd6", "#713c91", "#555555")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = ("o", "s", "^", "D")
INK, SOFT, GRID, PAGE = "#1f2328", "#424a53", "#d9dee3", "#ffffff"
# What a colour becomes where the reader's page is dark; colours of a scale stay.
DARK = {
    **dict(zip(COLOURS, ("#10a7fc", "#f88a45", "#2fc79a", "#e58ac1", "#d6b01f", "#8dd4ff",
                         "#b296de", "#c9c5c7"), strict=True)),
    INK: "#e6edf3", SOFT: "#a4aeb8", GRID: "#30363d", PAGE: "#0d1117",
    "#444444": "#c0c7cf", "#888888": "#768390", "#000000": "#e6edf3",
}  # fmt: skip
PART = "part:"  # how the gid of an artist begins that a page's script is to find as data-part
_WITHIN = 6  # names of series that leave room for the series
_TICKS = 7  # numbers along an axis

_STYLE: dict[Any, Any] = {
    "figure.figsize": (6.0, 3.6),
    "figure.dpi": 120,
    "figure.facecolor": PAGE,
    "savefig.facecolor": PAGE,
    "axes.facecolor": "none",
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "spectral-bench",
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
    """Return colour and dash of the ``index``-th series: neighbours differ in both."""
    dash = DASHES[(index + index // len(COLOURS)) % len(DASHES)]
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": dash}


def swatch(index: int) -> tuple[int, str]:
    """Return which colour the ``index``-th series has, and its dash as SVG writes it."""
    dash = look(index)["linestyle"]
    width = _STYLE["lines.linewidth"]
    lengths = [] if dash == "-" else [f"{width * length:g}" for length in dash[1]]
    return index % len(COLOURS), " ".join(lengths)


def marker(index: int) -> dict[str, Any]:
    """Return colour and marker of the ``index``-th series of points."""
    shape = MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
    return {"color": look(index)["color"], "marker": shape}


def number(value: float, _: object = None) -> str:
    """Return a number of an axis; millions as "8 M"."""
    return f"{value / 1e6:g} M" if abs(value) >= 1e6 else f"{value:g}"


def logarithmic(axes: Axes) -> None:
    """Draw x on a logarithmic scale with few numbers that people write: 1, 2, 5, 10 or powers."""
    axes.set_xscale("log")
    low, high = axes.dataLim.intervalx
    chosen = []
    for digits in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        ticks = LogLocator(subs=digits, numticks=_TICKS).tick_values(low, high)
        chosen = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(chosen) <= _TICKS:
            break
    axes.xaxis.set_major_locator(FixedLocator(chosen) if len(chosen) > 1 else MaxNLocator(_TICKS))
    axes.xaxis.set_major_formatter(number)
    axes.xaxis.set_minor_locator(NullLocator())
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
    if path.suffix == ".svg":
        path.write_text(svg(figure), encoding="utf-8")
    else:
        undated = {"CreationDate": None} if path.suffix == ".pdf" else {}
        figure.savefig(path, metadata=undated)


_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d+")
_COORDINATES = {"d", "x", "y", "width", "height", "transform"}


def svg(figure: Figure, salt: str = "") -> str:
    """Return ``figure`` as SVG, to be read on light and on dark pages.

    It is matplotlib's, with coordinates to a tenth of a point and its styles gathered in one sheet.
    The figure's label is for readers who cannot see it. ``salt`` keeps the names within it apart
    from those of the other figures of a page.
    """
    stream = io.StringIO()
    # A figure keeps the layout that it was made with.
    salted = _STYLE["svg.hashsalt"] + salt
    changes = {"figure.constrained_layout.use": False, "svg.hashsalt": salted}
    with mpl.rc_context(_STYLE | changes):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    ElementTree.register_namespace("", _SVG[1:-1])
    ElementTree.register_namespace("xlink", _LINK[1:].partition("}")[0])
    root = ElementTree.fromstring(text)
    root.attrib |= {
        "role": "img", "aria-label": str(figure.get_label()), "stroke-linejoin": "round",
        "font-family": "DejaVu Sans,Verdana,system-ui,sans-serif",
    }  # fmt: skip
    used = set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', text))
    prefix = f"c{hashlib.sha256(text.encode()).hexdigest()[:5]}"  # several may stand on one page
    classes: dict[str, str] = {}
    _simplify(root, {name for pair in used for name in pair}, classes, prefix)
    sheet = ElementTree.Element(f"{_SVG}style")
    sheet.text = _sheet(classes)
    root.insert(0, sheet)
    written = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r"(?<=>)(?=<)", "\n", written) + "\n"


def _simplify(
    one: ElementTree.Element, used: set[str], classes: dict[str, str], prefix: str
) -> None:
    """Round coordinates, turn styles into classes, and leave out names and groups of no use."""
    if style := one.attrib.pop("style", None):
        one.set("class", classes.setdefault(style, f"{prefix}-{len(classes)}"))
    for name in _COORDINATES & one.attrib.keys():
        one.set(name, _NUMBER.sub(_rounded, one.attrib[name]))
    if path := one.get("d"):
        one.set("d", re.sub(r"\s*([A-Za-z])\s*", r"\1", path))
    if one.get("transform", "").startswith("rotate(-0 "):
        del one.attrib["transform"]
    if one.get("id", "").startswith(PART):
        one.set("data-part", one.attrib["id"].removeprefix(PART))
    if one.get("id") not in used:
        one.attrib.pop("id", None)
    one.text, one.tail = (part if part and part.strip() else "" for part in (one.text, one.tail))
    kept: list[ElementTree.Element] = []
    for child in one:
        _simplify(child, used, classes, prefix)
        tag = child.tag.removeprefix(_SVG)
        if tag in ("metadata", "style") or (tag in ("defs", "g") and not len(child)):
            continue
        kept += list(child) if tag == "g" and not child.attrib else [child]
    one[:] = kept


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")


def _sheet(classes: dict[str, str]) -> str:
    """Return the styles by class, and their colours where the reader's page is dark."""
    light = dark = ""
    for style, name in classes.items():
        pairs = [part.strip().split(": ") for part in style.split(";") if part.strip()]
        pairs = [pair for pair in pairs if pair[0] != "font-family"]
        light += f".{name}{{{';'.join(map(':'.join, pairs))}}}"
        night = [f"{key}:{DARK[value]}" for key, value in pairs if value in DARK]
        dark += f".{name}{{{';'.join(night)}}}" if night else ""
    return f"{light}@media(prefers-color-scheme:dark){{{dark}}}"
