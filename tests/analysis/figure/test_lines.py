"""A chart of curves, and any figure as SVG for light and dark pages."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.figure.lines import Series, chart
from analysis.figure.style import COLOURS, logarithmic, new_axes, number, styled, svg

SVG = "{http://www.w3.org/2000/svg}"
LABELS = {"title": "A < B", "x_label": "epochs", "y_label": "test/accuracy (%)"}


def line(label: str, place: int, middle: list[float], width: float = 1.0) -> Series:
    y = np.array(middle)
    return Series(label, place, np.arange(1.0, len(y) + 1), y, y - width, y + width)


def texts(written: str) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(written).iter(f"{SVG}text")]


def test_each_series_has_a_line_a_band_and_an_entry_of_the_key() -> None:
    several = [line("adamw", 0, [1, 2, 3]), line("a<b>&", 9, [2, math.nan, 4])]
    figure = chart(several, detail="3 epochs", **LABELS)
    assert figure is not None
    (axes,) = figure.axes
    assert [one.get_label() for one in axes.lines] == ["adamw", "a<b>&"]
    assert list(axes.lines[1].get_xdata()) == [1, 3]  # what is not finite is left out
    assert len(axes.collections) == 2
    written = svg(figure)
    assert {"adamw", "a<b>&", "A < B", "3 epochs", "epochs"} <= set(texts(written))
    assert "nan" not in written


def test_what_is_no_line_is_not_drawn() -> None:
    alone, nowhere = line("x", 0, [1.0]), line("y", 1, [math.nan, math.nan])
    assert chart([alone, nowhere], **LABELS) is None
    figure = chart([alone, line("flat", 2, [3.0, 3.0], width=0.0)], **LABELS)
    assert figure is not None
    assert [one.get_label() for one in figure.axes[0].lines] == ["flat"]
    assert not figure.axes[0].collections  # and a band of no width neither


@pytest.mark.parametrize("falling", [False, True])
def test_the_worst_quarter_is_cut_off_and_wide_bands_of_the_first_points(falling: bool) -> None:
    middle = np.linspace(0.0, 1.0, 101)[:: -1 if falling else 1]
    wide = np.linspace(5.0, 0.01, 101)
    one = Series("a", 0, np.arange(101.0), middle, middle - wide, middle + wide)
    figure = chart([one], falling=falling, **LABELS)
    assert figure is not None
    low, high = figure.axes[0].get_ylim()
    shown = (low <= middle) & (middle <= high)
    assert 0.75 <= shown.mean() <= 0.8
    assert shown[-1] and not shown[0]
    whole = chart([one], falling=falling, whole=True, **LABELS)
    assert whole is not None and whole.axes[0].get_ylim()[0] < -4


def test_rings_are_as_large_as_asked() -> None:
    at = np.arange(3.0)
    ringed = Series("a", 2, at, at, at, at, rings=np.array([2.0, 3.0, 4.0]))
    figure = chart([ringed], whole=True, **LABELS)
    assert figure is not None
    (rings,) = figure.axes[0].collections
    assert np.sqrt(rings.get_sizes()) / 2 == pytest.approx([2, 3, 4])


def test_dashes_tell_neighbours_apart_unless_they_mean_something() -> None:
    plain = chart([line(f"{k}", k, [1, 2]) for k in range(4)], **LABELS)
    nulls = [Series(str(k), 0, *[np.arange(2.0)] * 4, dashed=k > 0) for k in range(2)]
    meant = chart(nulls, **LABELS)
    assert plain is not None and meant is not None
    assert len({str(one._dash_pattern) for one in plain.axes[0].lines}) == 4
    first, second = meant.axes[0].lines
    assert first.get_color() == second.get_color()
    assert first.is_dashed() != second.is_dashed()


@given(st.floats(1e-9, 1e9), st.floats(1.0001, 1e12))
@settings(max_examples=60, deadline=None)
def test_logarithmic_numbers_are_few_and_inside(low: float, ratio: float) -> None:
    _, axes = new_axes()
    axes.plot([low, low * ratio], [0, 1])
    logarithmic(axes)
    inside = [t for t in axes.get_xticks() if low * 0.999999 <= t <= low * ratio * 1.000001]
    assert len(inside) <= 8


def test_numbers_are_those_that_people_write() -> None:
    for low, high, wanted in (
        (0.54, 52.0, ["1", "2", "5", "10", "20", "50"]),
        (0.0004, 0.5, ["0.001", "0.003", "0.01", "0.03", "0.1", "0.3"]),
    ):
        one = Series("a", 0, np.array([low, high]), *[np.arange(2.0)] * 3)
        figure = chart([one], log=True, **LABELS)
        assert figure is not None
        shown = texts(svg(figure))
        assert shown[: len(wanted) + 1] == [*wanted, "epochs"]
    assert (number(8e6), number(4000.0), number(-0.25)) == ("8 M", "4000", "-0.25")


def test_an_svg_is_read_on_light_and_dark_pages_and_is_the_same_twice() -> None:
    figure = chart([line("adamw", 0, [1, 2, 3])], **LABELS)
    again = chart([line("adamw", 0, [1, 2, 3])], **LABELS)
    assert figure is not None and again is not None
    for one in (figure, again):
        one.set_label('what "is" <shown>')
    written = svg(figure)
    assert svg(again) == written
    root = ElementTree.fromstring(written)
    assert root.get("aria-label") == 'what "is" <shown>'
    (sheet,) = root.iter(f"{SVG}style")
    light, dark = (sheet.text or "").split("@media(prefers-color-scheme:dark)")
    for one in (COLOURS[0], "#ffffff", "#1f2328"):  # the line, the page, its letters
        (name,) = set(re.findall(rf"\.([\w-]+){{[^}}]*:{one}", light)[:1])
        assert f".{name}{{" in dark and one not in dark
    assert "<metadata" not in written and "<!--" not in written
    rest = re.sub(r'<style>.*</style>|viewBox="[^"]*"', "", written)
    assert not re.search(r"\d\.\d\d", rest)  # what another machine would write otherwise


def test_two_svgs_may_stand_on_one_page() -> None:
    with styled():
        classes = []
        for k in range(2):
            figure, axes = new_axes()
            axes.plot([0, 1], [0, k])
            classes.append(set(re.findall(r'class="([^"]+)"', svg(figure))))
    assert classes[0] and not classes[0] & classes[1]
