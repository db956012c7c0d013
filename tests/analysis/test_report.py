"""The page as text, and as a person meets it: in a real browser."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Page, browsing
from scipy import stats

from analysis import report
from analysis.measure.files import write_table
from analysis.page import report as report_data
from analysis.runs import load_runs
from analysis.table.build import build_table
from bench.errors import UserError


@pytest.fixture(scope="module")
def source(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three optimizers on two datasets, three seeds, with a diverged run and some exponents."""
    root: Path = tmp_path_factory.mktemp("report") / "runs"
    for d, dataset in enumerate(("digits", "cifar<10>")):
        for o, name in enumerate(("adamw", "muon", "sgd")):
            for seed in range(3):
                config = runs.config(name, seed, sweep="grid", dataset__x=d)
                config["names"]["dataset"] = dataset
                config["id"] = f"{config['id']}-{d}"
                state = "diverged" if (name, seed, d) == ("sgd", 2, 1) else "done"
                accuracy = 0.9 - 0.3 * d + 0.02 * o + 0.001 * seed
                history = [
                    {"step": 10 * e, "epoch": float(e), "test/accuracy": accuracy - 0.3 / e}
                    for e in range(1, 6)
                ]
                summary = runs.summary(accuracy, state, seconds_per_epoch=1.0 + o)
                folder = runs.folder(root, config, summary, state, history)
                if name == "muon" and d == 0:
                    last = pd.DataFrame({"layer": ["conv1", "head"], "alpha": [1.5, 2.25],
                                         "gamma": [1.0, 0.5], "s": [1.4, 1.1],
                                         "reliable": [True, False], "step": 50})  # fmt: skip
                    first = last.assign(alpha=9.0, reliable=False, step=0)
                    layers = pd.concat([first, last], ignore_index=True)
                    write_table(layers, folder / "exponents.parquet", {})
    return root


@pytest.fixture(scope="module")
def page(source: Path) -> Path:
    target = source.parent / "report.html"
    report.main([f"source={source}", "baseline=adamw", f"out={target}", "title=A <title>"])
    return target


def test_it_is_one_file_and_the_same_twice(page: Path, source: Path) -> None:
    text = page.read_text(encoding="utf-8")
    report.main([f"source={source}", "baseline=adamw", f"out={page}", "title=A <title>"])
    assert page.read_text(encoding="utf-8") == text
    assert "<h1>A &lt;title&gt;</h1>" in text
    asked = re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)  # names, not addresses
    assert not re.search(r"src\s*=|href=(?!\"#)|url\((?!#)|@import|https?://", asked)


def test_everything_is_on_it(page: Path) -> None:
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert len(re.findall(r"<tr data-dataset=.* data-optimizer=", text)) == 6
    assert "94.10 [93.85, 94.35]" in text
    assert "2/3, 1 diverged" in text
    assert "digits / convnet: test/accuracy (%) against epochs" in text
    assert text.count('<div class="chart"><svg') == 2
    assert re.search(r"<td>head</td>.*2\.25 !</td>", text)
    # Of each run the last measurement: three runs, not six, and no mean with the first.
    assert re.search(
        r'<td>conv1</td><td class="number">1\.50</td>.*<td class="number">3</td>', text
    )
    assert "diverged</td>" in text
    assert "seed=0,1,2</code>" in text


def test_a_band_is_the_interval_of_the_seeds(source: Path) -> None:
    found = load_runs(source)
    rows = report_data.rows(build_table(found), found, str(source))
    (muon,) = [row for row in rows if (row.label, row.dataset) == ("muon", "digits")]
    figure = report_data.chart_of([muon], str(source), "test/accuracy", "3 seeds")
    assert figure is not None
    (band,) = figure.axes[0].collections
    last = band.get_paths()[0].vertices
    accuracies = [100 * (0.92 + 0.001 * seed - 0.3 / 5) for seed in range(3)]
    ends = stats.t.interval(0.95, 2, np.mean(accuracies), stats.sem(accuracies))
    at_5 = last[last[:, 0] == 5][:, 1]
    assert (at_5.min(), at_5.max()) == pytest.approx(ends)


def test_it_takes_the_options_of_the_tables(runs: Any, tmp_path: Path) -> None:
    for name, errors in (("a", [3.0, 3.1]), ("b", [1.0, 1.1])):
        for seed, error in enumerate(errors):
            config = runs.config(name, seed)
            history = [{"step": e, "epoch": float(e), "test/mse": error / e} for e in (1, 2)]
            summary = runs.summary(0.5, **{"test/mse": error})
            runs.folder(tmp_path / "runs", config, summary, history=history)
    out = tmp_path / "r.html"
    argv = [f"source={tmp_path / 'runs'}", "metric=test/mse", "baseline=a", f"out={out}"]
    with pytest.raises(UserError, match="better=higher or better=lower"):
        report.main(argv)
    report.main([*argv, "better=lower", "spread=std", "seeds=0,1"])
    text = out.read_text()
    assert text.index('<th scope="row" data-value="b">') < text.index('data-value="a">')
    assert "1.0500 ± 0.0707" in text and "-2.0000 [" in text


def test_mistakes_are_one_line(source: Path, tmp_path: Path) -> None:
    for argv, message in (
        ([f"source={tmp_path}/no"], "no such folder of runs"),
        ([f"source={source}", "baseline=adm"], "no row 'adm' to be the baseline; the nearest is"),
        ([f"source={source}", f"out={source}"], "name another file"),
    ):
        with pytest.raises(UserError, match=message):
            report.main(argv)


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

FIRST = "document.querySelector('#board tbody tr:not([hidden]) th').textContent"
SHOWN = "document.querySelectorAll('#board tbody tr:not([hidden])').length"


def click(page: Page, column: str) -> None:
    page.run(
        f"[...document.querySelectorAll('#board thead button')]"
        f".find(b => b.textContent === '{column}').click()"
    )


def values(page: Page, column: int) -> list[str]:
    found: list[str] = page.run(
        "[...document.querySelectorAll('#board tbody tr:not([hidden])')]"
        f".map(r => r.cells[{column}].dataset.value)"
    )
    return found


@needs_browser
@pytest.mark.slow
def test_in_a_browser_it_sorts_filters_and_asks_for_nothing(page: Path) -> None:
    with browsing() as browser:
        browser.open(page)
        assert browser.run(SHOWN) == 6
        click(browser, "test/accuracy (%)")
        falling = [float(value) for value in values(browser, 3)]
        assert falling == sorted(falling, reverse=True)
        click(browser, "test/accuracy (%)")
        assert [float(value) for value in values(browser, 3)] == falling[::-1]
        click(browser, "optimizer")
        assert values(browser, 0) == sorted(values(browser, 0))
        browser.run(
            "(s => { s.value = 'cifar<10>'; s.dispatchEvent(new Event('change')) })"
            "(document.querySelector('[data-filter=dataset]'))"
        )
        assert browser.run(SHOWN) == 3
        assert set(values(browser, 1)) == {"cifar<10>"}
        assert browser.run("document.getElementById('count').textContent") == "3 of 6 rows"
        assert browser.run("document.querySelectorAll('section:not([hidden])').length") == 1
        link = browser.run("location.hash")
        assert browser.errors == []
        assert {url.split("#")[0] for url in browser.requests} == {page.as_uri()}
    with browsing() as browser:  # the view is in the link
        browser.open(page)
        browser.run(f"location.hash = {link!r}")
        browser.call("Page.reload")
        while browser.run("document.readyState") != "complete":
            pass
        assert browser.run(SHOWN) == 3
        assert values(browser, 0) == ["adamw", "muon", "sgd"]


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_and_in_the_dark_it_can_be_read(page: Path, dark: bool) -> None:
    with browsing() as browser:
        browser.shape(390, 844, dark=dark)
        browser.open(page)
        assert browser.run("document.documentElement.scrollWidth") <= 390  # nothing sticks out
        style = "getComputedStyle(document.body)."
        ink, paper = (
            sum(int(part) for part in re.findall(r"\d+", browser.run(style + name))[:3])
            for name in ("color", "backgroundColor")
        )
        assert (ink > paper) == dark
        assert abs(ink - paper) > 500
        height = browser.run("document.querySelector('#board td').getBoundingClientRect().height")
        assert height > 15
