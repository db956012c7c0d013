"""Charts of the report as inline SVG: no script, no network, colours from the page's styles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

COLOURS = 8  # classes c0 ... c7 of the page
_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 40

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """A curve over seeds: ``x`` [n], ``middle`` [n] and the band ``low`` to ``high`` [n]."""

    label: str
    colour: int
    x: Array
    middle: Array
    low: Array
    high: Array
    dots: Array | None = None  # [n] radii of dots at the points; None: no dots


def curves(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str] = "{:g}".format,
    log: bool = False,
    falling: bool = False,
    whole: bool = False,
) -> str:
    """Return a line chart with bands; values that are not finite are left out.

    Args:
        lines: the curves.
        x_label: below.
        y_label: for readers who cannot see.
        x_text: writes the number of a tick.
        log: whether x, all of it above 0, is drawn on a logarithmic scale.
        falling: whether a better y is a smaller one (a loss): then the highest are cut off.
        whole: whether every point is shown, the worst too.
    """
    drawn = [line for line in lines if np.isfinite(line.middle).sum() > 1]
    if not drawn:
        return ""
    xs = np.concatenate([line.x for line in drawn])
    low, high = _span(drawn, falling=falling, whole=whole)
    pad = 0.05 * (high - low) or 0.5
    first, last = float(np.nanmin(xs)), float(np.nanmax(xs))
    x_ticks, y_ticks = (log_ticks if log else ticks)(first, last), ticks(low - pad, high)
    frame = _Frame(first, last, float(low - pad), float(high + pad), log)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" class="chart"'
        f' aria-label="{escape(y_label)} against {escape(x_label)}">',
        f'<clipPath id="plot"><rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH - _LEFT - _RIGHT}"'
        f' height="{_HEIGHT - _TOP - _BOTTOM}"/></clipPath>',
    ]
    for tick in y_ticks:
        y = frame.y(tick)
        if _TOP <= y <= _HEIGHT - _BOTTOM:
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="end">{tick:g}</text>')
    for tick in x_ticks:
        x = frame.x(tick)
        if _LEFT <= x <= _WIDTH - _RIGHT:
            at = f'x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}"'
            parts.append(f'<text {at} class="middle">{x_text(tick)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" class="middle">{escape(x_label)}</text>')
    parts.append('<g clip-path="url(#plot)">')
    for line in drawn:
        good = np.isfinite(line.middle)
        forth = list(zip(line.x[good], line.high[good], strict=True))
        back = list(zip(line.x[good], line.low[good], strict=True))[::-1]
        name = escape(line.label)
        parts.append(
            f'<path class="band c{line.colour % COLOURS}" d="{frame.path([*forth, *back])}Z"/>'
        )
        points = list(zip(line.x[good], line.middle[good], strict=True))
        dash = " dashed" if line.colour >= COLOURS else ""
        parts.append(
            f'<path class="line c{line.colour % COLOURS}{dash}" d="{frame.path(points)}">'
            f"<title>{name}</title></path>"
        )
    dots = [dot for line in drawn for dot in _dots(line, frame)]
    return "".join([*parts, "</g>", *dots, "</svg>"])


def _span(lines: Sequence[Line], *, falling: bool, whole: bool) -> tuple[float, float]:
    """Return the least and the largest y to show.

    The first epochs, and their bands, would flatten all that follows: the worst quarter of the
    points is left out, and of the bands only the better side of the lines' ends is sure of room.
    """
    bands = [line.low if falling else line.high for line in lines]
    ys = np.concatenate([line.middle for line in lines])
    if whole:
        ys = np.concatenate([ys, *(end for line in lines for end in (line.low, line.high))])
    shown = [0.0, 1.0] if whole else [0.0, 0.75] if falling else [0.25, 1.0]
    low, high = np.quantile(ys[np.isfinite(ys)], shown)
    ends = [end[np.isfinite(end)][-1] for end in bands if np.isfinite(end).any()]
    return (min([low, *ends]), high) if falling else (low, max([high, *ends]))


def _dots(line: Line, frame: _Frame) -> list[str]:
    """Return rings at the points of a line that has dots; they may reach over the frame."""
    if line.dots is None:
        return []
    return [
        f'<circle class="line c{line.colour % COLOURS}" cx="{frame.x(x):.1f}"'
        f' cy="{frame.y(y):.1f}" r="{radius:.1f}"/>'
        for x, y, radius in zip(line.x, line.middle, line.dots, strict=True)
        if np.isfinite(y)
    ]


def bar(low: float, middle: float, high: float, span: tuple[float, float]) -> str:
    """Return a small interval bar on the scale of ``span``; empty where there is no number."""
    if not math.isfinite(middle):
        return ""
    scale = 120 / ((span[1] - span[0]) or 1.0)
    at = [4 + scale * (v - span[0]) for v in (low, middle, high) if math.isfinite(v)]
    whisker = f'<path class="whisker" d="M{at[0]:.1f} 8H{at[-1]:.1f}"/>' if len(at) == 3 else ""
    centre = at[1] if len(at) == 3 else at[0]
    scale_line = '<path class="grid" d="M4 8H124"/>'
    dot = f'<circle cx="{centre:.1f}" cy="8" r="3.5"/>'
    return (
        f'<svg viewBox="0 0 128 16" class="bar" aria-hidden="true">{scale_line}{whisker}{dot}</svg>'
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers between ``low`` and ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if raw <= power * m)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{step * k:.12g}") for k in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return at most ``most`` round numbers between ``low`` > 0 and ``high``, by their ratio."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    sparse = max(1, math.ceil((last - first) / (most - 1)))
    found: list[float] = []
    for digits, stride in (((1, 2, 5), 1), ((1, 3), 1), ((1,), sparse)):
        powers = range(first, last + 1, stride)
        at = [float(f"{digit}e{power}") for power in powers for digit in digits]
        found = [tick for tick in at if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(found) <= most:
            break
    return found if len(found) > 1 else ticks(low, high)


@dataclass(frozen=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log: bool

    def x(self, value: float) -> float:
        low, high = self.x_low, self.x_high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / ((high - low) or 1.0)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
