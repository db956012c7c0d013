from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.page.charts import Line, bar, curves, log_ticks, ticks


def line(label: str = "adamw", colour: int = 0, n: int = 5, gap: bool = False) -> Line:
    middle = np.linspace(90, 99, n)
    if gap:
        middle[1] = math.nan
    return Line(label, colour, np.arange(1.0, n + 1), middle, middle - 1, middle + 1)


def test_a_chart_is_xml_with_a_line_and_a_band_each() -> None:
    svg = curves([line(), line("a<b>&", 9)], x_label="epoch", y_label="accuracy (%)")
    root = ElementTree.fromstring(svg)
    classes = [e.get("class") for e in root.iter() if e.get("class", "").startswith("line")]
    assert classes == ["line c0", "line c1 dashed"]
    assert [e.text for e in root.iter() if e.tag == "title"] == ["adamw", "a<b>&"]
    texts = [e.text for e in root.iter() if e.tag == "text"]
    assert "epoch" in texts
    assert {"1", "5"} <= set(texts)
    assert root.get("aria-label") == "accuracy (%) against epoch"


def test_higher_values_are_drawn_higher_and_later_ones_further_right() -> None:
    (path,) = re.findall(
        r'class="line c0" d="M([^"]*)"', curves([line()], x_label="x", y_label="y")
    )
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)


def test_what_cannot_be_drawn_is_left_out() -> None:
    alone = Line("x", 0, np.array([1.0]), *(np.array([1.0]),) * 3)
    nowhere = Line("y", 1, np.array([1.0, 2.0]), *(np.array([math.nan, math.nan]),) * 3)
    assert curves([alone, nowhere], x_label="x", y_label="y") == ""
    svg = curves([line(gap=True)], x_label="x", y_label="y")
    assert "nan" not in svg
    flat = Line("z", 0, np.array([1.0, 2.0]), *(np.array([3.0, 3.0]),) * 3)
    ElementTree.fromstring(curves([flat], x_label="x", y_label="y"))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
@settings(max_examples=60, deadline=None)
def test_ticks_are_few_round_and_inside(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert 1 <= len(found) <= 7
    slack = 1e-6 * width + 1e-9 * abs(low)
    assert all(low - slack <= tick <= low + width + slack for tick in found)
    assert found == sorted(found)


def test_ticks_of_nothing() -> None:
    assert ticks(2.0, 2.0) == [2.0]
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_bars_share_a_scale() -> None:
    svg = bar(0.0, 0.5, 1.0, (0.0, 2.0))
    assert 'd="M4.0 8H64.0"' in svg
    assert 'cx="34.0"' in svg
    lone = bar(math.nan, 2.0, math.nan, (0.0, 2.0))
    assert "whisker" not in lone
    assert 'cx="124.0"' in lone
    assert bar(math.nan, math.nan, math.nan, (0.0, 1.0)) == ""
    assert "nan" not in bar(1.0, 1.0, 1.0, (1.0, 1.0))


def test_the_worst_quarter_is_cut_off_whichever_way_is_better() -> None:
    x = np.arange(1.0, 101.0)
    falling = Line("loss", 0, x, *(101 - x,) * 3)
    for better_is_lower in (True, False):
        svg = curves([falling], x_label="x", y_label="y", falling=better_is_lower)
        (path,) = re.findall(r'class="line c0" d="M([^"]*)"', svg)
        heights = [float(point.split()[1]) for point in path.split("L")]
        # Higher on the page is a smaller number; the chart goes from 12 to 260.
        assert (heights[0] < 12) == better_is_lower
        assert (heights[-1] > 260) == (not better_is_lower)
        seen = sum(12 <= height <= 260 for height in heights)
        assert 75 <= seen <= 80  # of 100; the frame leaves some room around


def test_wide_bands_of_the_first_points_widen_no_frame() -> None:
    x, middle = np.arange(8.0), np.linspace(90.0, 94.0, 8)
    wide = np.array([50.0, 9.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.1])
    lines = [Line("a", 0, x, middle, middle - wide, middle + wide)]
    svg = curves(lines, x_label="x", y_label="y")
    texts = [float(e.text or "nan") for e in ElementTree.fromstring(svg).iter() if e.tag == "text"
             and e.get("class") == "end"]  # fmt: skip
    assert min(texts) >= 90 and max(texts) <= 94.5


def test_a_ninth_line_has_the_first_colour_dashed_and_a_band_of_it() -> None:
    x = np.arange(3.0)
    svg = curves([Line("ninth", 8, x, x, x - 1, x + 1)], x_label="x", y_label="y")
    assert 'class="band c0"' in svg and 'class="line c0 dashed"' in svg


def test_on_a_logarithmic_scale_equal_ratios_are_equally_far() -> None:
    x = np.array([0.001, 0.01, 0.1])
    svg = curves([Line("a", 0, x, x, x, x)], x_label="x", y_label="y", log=True)
    texts = {e.text for e in ElementTree.fromstring(svg).iter() if e.tag == "text"}
    assert {"0.001", "0.01", "0.1"} <= texts
    (path,) = re.findall(r'class="line c0" d="M([^"]*)"', svg)
    left, middle, right = (float(point.split()[0]) for point in path.split("L"))
    assert middle - left == pytest.approx(right - middle, abs=0.2)


@given(st.floats(1e-9, 1e9), st.floats(1.0001, 1e12))
@settings(max_examples=200, deadline=None)
def test_logarithmic_ticks_are_few_rising_and_inside(low: float, ratio: float) -> None:
    found = log_ticks(low, low * ratio)
    assert 1 <= len(found) <= 7
    assert found == sorted(set(found))
    assert all(low * (1 - 1e-6) <= tick <= low * ratio * (1 + 1e-6) for tick in found)


def test_logarithmic_ticks_are_those_that_people_write() -> None:
    assert log_ticks(0.54, 52.0) == [1, 2, 5, 10, 20, 50]
    assert log_ticks(0.0004, 0.5) == [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
    assert log_ticks(5.0, 6.0) == ticks(5.0, 6.0)


def test_dots_are_rings_where_there_is_a_point_and_every_point_can_be_shown() -> None:
    middle = np.array([1.0, math.nan, 100.0])
    dotted = Line("a", 2, np.arange(3.0), middle, middle, middle, np.array([2.0, 3.0, 4.0]))
    svg = curves([dotted], x_label="x", y_label="y", whole=True)
    rings = [e for e in ElementTree.fromstring(svg).iter() if e.tag == "circle"]
    assert [ring.get("r") for ring in rings] == ["2.0", "4.0"]
    assert {ring.get("class") for ring in rings} == {"line c2"}
    assert all(12 <= float(ring.get("cy", "nan")) <= 260 for ring in rings)
