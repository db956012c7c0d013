"""The report as a person meets it: in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Page, browsing
from report_runs import write_runs

from analysis import report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

HOSTILE = '</script><img src=x onerror="window.hacked=1">'


@pytest.fixture(scope="module")
def page(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    write_runs(runs, root / "runs")
    report.main([f"source={root / 'runs'}", "baseline=adamw", f"out={root / 'report.html'}"])
    return root / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with browsing() as found:
        yield found


@pytest.fixture
def at(browser: Page, page: Path) -> Iterator[Page]:
    """The page at 1400 px; whatever a test does, nothing fails or is asked for."""
    browser.errors.clear()
    browser.requests.clear()
    browser.shape(1400, 1000)
    browser.open(page)
    yield browser
    assert browser.errors == []
    assert {url.split("#")[0] for url in browser.requests} <= {page.as_uri(), "about:blank"}


def labels(browser: Page) -> list[str]:
    found: list[str] = browser.run(
        "[...document.querySelectorAll('#board tbody[data-row]:not(.off)')]"
        ".map(r => `${r.dataset.label} ${r.rows[0].cells[1].dataset.value}`)"
    )
    return found


def column(browser: Page, name: str) -> list[str]:
    found: list[str] = browser.run(
        f"[...document.querySelectorAll('#board tbody[data-row]:not(.off)')].map(r => r.rows[0]"
        f".cells[[...document.querySelectorAll('#board thead th')]"
        f".findIndex(h => h.textContent === {name!r})].dataset.value)"
    )
    return found


def sort(browser: Page, name: str) -> str | None:
    """Click a heading; return how its column is sorted then."""
    found: str | None = browser.run(
        f"(h => {{ h.firstElementChild.click(); return h.getAttribute('aria-sort') }})"
        f"([...document.querySelectorAll('#board > thead th')]"
        f".find(h => h.textContent === {name!r}))"
    )
    return found


def seek(browser: Page, text: str) -> None:
    browser.run(
        f"(f => {{ f.value = {text!r}; f.dispatchEvent(new Event('input')) }})"
        "(document.getElementById('filter'))"
    )


def centre(browser: Page, expression: str) -> tuple[float, float]:
    """Scroll an element into view and return where its middle is."""
    x, y = browser.run(
        f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();"
        f" return [b.x + b.width / 2, b.y + b.height / 2] }})({expression})"
    )
    return x, y


def click(browser: Page, expression: str, **more: Any) -> None:
    x, y = centre(browser, expression)
    for kind in ("mousePressed", "mouseReleased"):
        browser.mouse(kind, x, y, **more)


def test_it_sorts_numbers_as_numbers_and_back(at: Page) -> None:
    asserted = labels(at)
    assert asserted == ["sgd cifar<10>", "muon cifar<10>", "adamw cifar<10>",
                        "sgd digits", "muon digits", "adamw digits"]  # fmt: skip
    assert sort(at, "test/accuracy (%)") == "descending"
    falling = [float(value) for value in column(at, "test/accuracy (%)")]
    assert falling == sorted(falling, reverse=True)
    assert sort(at, "test/accuracy (%)") == "ascending"
    assert [float(value) for value in column(at, "test/accuracy (%)")] == falling[::-1]
    assert sort(at, "test/accuracy (%)") is None
    assert labels(at) == asserted
    # Stable: rows that tie stay in the page's order, and what has no number comes last.
    assert sort(at, "optimizer") == "ascending"
    assert labels(at) == ["adamw cifar<10>", "adamw digits", "muon cifar<10>", "muon digits",
                          "sgd cifar<10>", "sgd digits"]  # fmt: skip
    sort(at, "vs adamw")
    assert column(at, "vs adamw")[-2:] == ["nan", "nan"]
    sort(at, "vs adamw")
    assert column(at, "vs adamw")[-2:] == ["nan", "nan"]
    assert at.run("document.querySelectorAll('#board > thead [aria-sort]').length") == 1


def test_it_is_used_with_the_keyboard(at: Page) -> None:
    at.run("document.querySelector('#board thead th button').focus()")
    at.press("Enter", "\r")
    assert column(at, "optimizer") == sorted(column(at, "optimizer"))
    at.run("document.querySelector('#board tbody th button').focus()")
    at.press("Enter", "\r")
    assert at.run("document.querySelectorAll('#board tr.runs:not([hidden])').length") == 1
    assert at.run("document.activeElement.getAttribute('aria-expanded')") == "true"


def test_it_filters_rows_curves_and_exponents_by_words(at: Page) -> None:
    seek(at, "Digits mu")
    assert labels(at) == ["muon digits"]
    assert at.run("document.getElementById('count').textContent") == "1 of 6 rows"
    assert at.run("document.querySelectorAll('section:not([hidden])').length") == 1
    seek(at, "sgd")
    assert at.run("document.querySelectorAll('#exponents ~ .wide tr[data-row].off').length") == 2
    seek(at, "no such")
    assert labels(at) == []
    seek(at, "")
    assert len(labels(at)) == 6


def test_a_row_is_hidden_with_its_curve_and_comes_back(at: Page) -> None:
    click(at, "document.querySelector('[data-label=muon] .hide button')")
    assert "muon" not in " ".join(labels(at))
    lines = "document.querySelectorAll('[data-part=line-1]:not(.off)').length"
    assert at.run(lines) == 0
    assert at.run("document.querySelectorAll('section:not([hidden])').length") == 2
    click(at, "document.querySelector('#back button')")
    assert len(labels(at)) == 6 and at.run(lines) == 2
    # The name below the curves does the same.
    name = "document.querySelector('.key [data-label=sgd] button')"
    click(at, name)
    assert "sgd" not in " ".join(labels(at))
    assert at.run(f"{name}.getAttribute('aria-pressed')") == "false"
    assert at.run(f"{name}.getBoundingClientRect().width") > 10
    click(at, name)
    assert len(labels(at)) == 6 and at.run(f"{name}.getAttribute('aria-pressed')") == "true"


def test_the_view_is_in_the_link(at: Page, page: Path) -> None:
    seek(at, "digits")
    sort(at, "test/accuracy (%)")
    sort(at, "test/accuracy (%)")
    click(at, "document.querySelector('[data-label=muon]:not(.off) .hide button')")
    link = at.run("location.hash")
    at.open(page, link)
    assert labels(at) == ["adamw digits", "sgd digits"]
    at.open(page, "#sort=length&down&hide=nobody&filter=%00")  # anybody may write one
    assert labels(at) == []
    seek(at, "")
    assert len(labels(at)) == 6


def test_a_cell_opens_its_runs_and_the_command_is_copied(at: Page) -> None:
    cell = "document.querySelector('[data-row=\"1-1\"] tr.row td.number')"
    click(at, cell)
    shown = at.run("document.querySelector('tr.runs:not([hidden])').innerText")
    assert "digits-1-s1" in shown and "92.20" in shown and "+2.10" in shown
    assert "spectral-bench train -m model=convnet dataset=digits optimizer=muon" in shown
    click(at, "document.querySelector('tr.runs:not([hidden]) .copy')")
    assert at.run("getSelection().toString()").startswith("spectral-bench train -m model=convnet")
    assert at.run("document.querySelector('tr.runs:not([hidden]) .copy').textContent") in (
        "copied", "selected: copy it",
    )  # fmt: skip
    click(at, cell)
    assert at.run("document.querySelectorAll('tr.runs:not([hidden])').length") == 0


CHART = "document.querySelector('[data-chart=\"1\"] .chart > svg')"
TIP = "(t => t.hidden ? null : t.textContent)(document.querySelector('[data-chart=\"1\"] .tip'))"


def place(browser: Page, x: float, y: float) -> tuple[float, float]:
    """Where on the screen a point of the second chart's data is, before any zoom."""
    at_x, at_y = browser.run(
        f"(() => {{ const c = charts[1], s = c.svg; s.scrollIntoView({{block: 'center'}});"
        f" const p = new DOMPoint(c.x({x}), c.y({y})).matrixTransform(s.getScreenCTM());"
        " return [p.x, p.y] })()"
    )
    return at_x, at_y


def ticks(browser: Page, axis: str) -> list[float]:
    found: list[str] = browser.run(
        f"[...{CHART}.querySelectorAll('[data-part=tick-{axis}]:not(.off) text')]"
        ".map(t => t.textContent)"
    )
    return [float(text) for text in found]


def test_a_curve_tells_its_numbers_where_it_is_pointed_at(at: Page) -> None:
    x, y = place(at, 5, 92.2 - 6)
    at.mouse("mouseMoved", x - 3, y + 2, button="none")
    assert at.run(TIP) == "muon\nepoch 5: 86.2\n[85.703, 86.697], n\u00a0=\u00a03"
    assert at.run(f"{CHART}.querySelector('.hot').dataset.part") == "line-1"
    at.mouse("mouseMoved", 5, 5, button="none")
    assert at.run(TIP) is None
    click(at, "document.querySelector('[data-chart=\"1\"] .key [data-label=muon] button')")
    x, y = place(at, 5, 92.2 - 6)
    at.mouse("mouseMoved", x - 3, y + 2, button="none")
    assert not at.run(TIP).startswith("muon")  # what is off is not found


def test_a_box_zooms_and_two_clicks_bring_the_whole_back(at: Page) -> None:
    path = f"{CHART}.querySelector('[data-part=line-1] path').getAttribute('d')"
    whole, before = at.run(path), (ticks(at, "x"), ticks(at, "y"))
    (x0, y0), (x1, y1) = place(at, 3.5, 85.0), place(at, 4.5, 82.0)
    at.mouse("mousePressed", x0, y0)
    at.mouse("mouseMoved", (x0 + x1) / 2, (y0 + y1) / 2)
    assert at.run(f"{CHART}.querySelector('.box.off')") is None
    at.mouse("mouseMoved", x1, y1)
    at.mouse("mouseReleased", x1, y1)
    view = at.run("charts[1].view")
    assert view == pytest.approx([3.5, 4.5, 82.0, 85.0], abs=0.05)
    assert at.run(path) != whole
    for axis, low, high in (("x", 3.5, 4.5), ("y", 82.0, 85.0)):
        shown = ticks(at, axis)
        assert 3 <= len(shown) <= 8 and low - 0.05 <= min(shown) and max(shown) <= high + 0.05
    # A tick stands where its value is.
    text = f"{CHART}.querySelector('.moved-tick[data-part=tick-x] use')"
    at_x, _ = centre(at, text)
    assert at_x == pytest.approx(place(at, ticks(at, "x")[0], 83)[0], abs=1)
    x, y = place(at, 4, 83)
    for count in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            at.mouse(kind, x, y, clickCount=count)
    assert at.run(path) == whole
    assert (ticks(at, "x"), ticks(at, "y")) == before


def test_the_buttons_zoom_too_and_show_every_point(at: Page) -> None:
    def zoom(how: str) -> list[float]:
        click(at, f'document.querySelector(\'[data-chart="1"] [data-zoom="{how}"]\')')
        found: list[float] = at.run("charts[1].view")
        return found

    start = at.run("charts[1].view")
    x0, x1, y0, y1 = zoom("0.5")
    assert (x1 - x0, y1 - y0) == pytest.approx(
        ((start[1] - start[0]) / 2, (start[3] - start[2]) / 2)
    )
    assert zoom("2") == pytest.approx(start)
    x0, x1, y0, y1 = zoom("all")
    assert (x0, x1) == (1, 5) and y0 < 60.5 < start[2] and y1 > 88
    assert zoom("reset") == start


def test_the_lines_that_the_script_draws_are_those_of_matplotlib(at: Page, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    drawn = re.findall(r'<g data-part="(line-\d)">\n<path d="([^"]*)"', text)
    for chart in range(2):
        for part, path in drawn[3 * chart : 3 * chart + 3]:
            ours = at.run(f"charts[{chart}].svg.querySelector('[data-part={part}] path')"
                          ".getAttribute('d')")  # fmt: skip
            numbers = [[float(one) for one in re.findall(r"-?[\d.]+", d)] for d in (ours, path)]
            # The first point lies outside, where matplotlib ends the line at the figure's edge.
            assert numbers[0][2:] == pytest.approx(numbers[1][2:], abs=0.11)


CONTRASTS = """
(() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => rgb.slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = channels(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const one = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !one.getClientRects().length) continue;
    if (one.closest("script, style, .off")) continue;
    const style = getComputedStyle(one), svg = one.namespaceURI.endsWith("svg");
    const [a, b] = [light(channels(svg ? style.fill : style.color)), light(behind(one))]
      .sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walk.currentNode.textContent.trim()]);
  }
  return found;
})()
"""


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_at_any_width_by_day_and_by_night(
    at: Page, page: Path, width: int, dark: bool
) -> None:
    at.shape(width, 900, dark=dark)
    at.open(page)
    click(at, "document.querySelector('[data-row=\"1-1\"] tr.row td.number')")  # its runs too
    assert at.run("document.documentElement.scrollWidth") <= width  # nothing sticks out
    background = at.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 100) == dark
    contrasts = at.run(CONTRASTS)
    assert len(contrasts) > 80
    assert min(contrasts)[0] >= 4.5, min(contrasts)
    assert "test/accuracy" in at.run("document.querySelector('#board > thead').innerText")


def test_on_paper_it_is_black_on_white_and_without_controls(at: Page) -> None:
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    at.call("Emulation.setEmulatedMedia", media="print", features=[dark])
    try:
        style = "getComputedStyle(document.body)"
        assert at.run(f"{style}.backgroundColor") == "rgb(255, 255, 255)"
        figure = "getComputedStyle(document.querySelector('.chart path'))"
        assert at.run(f"{figure}.fill") == "rgb(255, 255, 255)"
        shown = "[...document.querySelectorAll('.control')].filter(c => c.getClientRects().length)"
        assert at.run(f"{shown}.length") == 0
    finally:
        at.call("Emulation.setEmulatedMedia", media="")


def test_without_its_script_it_is_a_plain_table(at: Page, page: Path) -> None:
    at.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        at.open(page)
        text = at.run("document.body.innerText")
        assert "muon" in text and "92.20 [91.70, 92.70]" in text and "3 runs" in text
        assert "Filter" not in text and "zoom" not in text
        at.run("document.querySelector('[data-row=\"1-1\"] details').open = true")
        assert "spectral-bench train -m" in at.run("document.body.innerText")
        assert at.run("document.querySelectorAll('.chart path').length") > 10
    finally:
        at.call("Emulation.setScriptExecutionDisabled", value=False)


def test_a_hostile_run_stays_text(runs: Any, browser: Page, tmp_path: Path) -> None:
    write_runs(runs, tmp_path / "runs", ("adamw", HOSTILE))
    argv = [f"source={tmp_path / 'runs'}", "baseline=adamw", f"out={tmp_path / 'r.html'}"]
    report.main([*argv, f"title={HOSTILE}"])
    browser.errors.clear()
    browser.open(tmp_path / "r.html")
    assert browser.run("document.querySelector('h1').textContent") == HOSTILE
    texts = "[...document.querySelectorAll('{}')].map(e => e.textContent)"
    assert HOSTILE in browser.run(texts.format("tr.row > th"))
    assert HOSTILE in browser.run("charts[0].series.map(s => s.label)")
    assert any(HOSTILE in command for command in browser.run(texts.format("tr.runs code")))
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.errors == []
    # And were there a hole, the policy lets no other script run, nor anything be sent.
    browser.run(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=hacked=1>');"
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
        "document.body.append(s)"
    )
    sent = browser.call(
        "Runtime.evaluate", expression="fetch('http://127.0.0.1:9/').then(() => 1, () => 2)",
        awaitPromise=True, returnByValue=True,
    )  # fmt: skip
    assert sent["result"]["value"] == 2
    assert browser.run("window.hacked") is None
    assert any("Content Security Policy" in error for error in browser.errors)
