"""The report as text; tests/analysis/page/test_report.py meets it in a browser."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import write_runs
from scipy import stats

from analysis import report
from analysis.judge.section import Plan
from analysis.page import report as report_data
from analysis.runs import load_runs
from analysis.table.build import build_table
from bench.errors import UserError
from bench.registration import Badge


@pytest.fixture(scope="module")
def source(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(runs, tmp_path_factory.mktemp("report") / "runs")


@pytest.fixture(scope="module")
def page(source: Path) -> Path:
    target = source.parent / "report.html"
    report.main([f"source={source}", "baseline=adamw", f"out={target}", "title=A <title>"])
    return target


def row_of(text: str, key: str) -> str:
    """What the page says of one row and its runs."""
    found = re.search(rf'<tbody data-row="{key}".*?</details>', text, re.S)
    assert found
    return html.unescape(found[0])


def test_it_is_one_file_and_the_same_twice(page: Path, source: Path) -> None:
    text = page.read_text(encoding="utf-8")
    report.main([f"source={source}", "baseline=adamw", f"out={page}", "title=A <title>"])
    assert page.read_text(encoding="utf-8") == text
    assert "<h1>A &lt;title&gt;</h1>" in text
    asked = re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)  # names, not addresses
    assert not re.search(r"src\s*=|href=(?!\"#)|url\((?!#)|@import|https?://", asked)


def test_everything_is_on_it(page: Path) -> None:
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert len(re.findall(r"<tbody data-row=", text)) == 6
    assert "94.30 [93.55, 95.05]" in text
    assert "2/3, 1 diverged" in text
    assert "test/accuracy (%) against epochs; 20 epochs, 3 seeds" in text
    assert text.count('<div class="chart"><svg') == 2
    assert re.search(r"<td>head</td>.*2\.25 !</td>", text)
    # Of each run the last measurement: three runs, not six, and no mean with the first.
    assert re.search(
        r'<td>conv1</td><td class="number">1\.50</td>.*<td class="number">3</td>', text
    )
    assert "seed=0,1,2</code>" in text


def test_a_row_names_each_run_its_number_and_its_difference_in_its_seed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    muon = row_of(text, "1-1")
    lines = re.findall(r'<tr><th scope="row" class="number">(\d)</th>(.*?)</tr>', muon)
    assert [(seed, *re.findall(r"<td[^>]*>(.*?)</td>", rest)) for seed, rest in lines] == [
        ("0", "92.00", "+2.00", "done", "2", "", "digits-1-s0"),
        ("1", "92.20", "+2.10", "done", "2", "", "digits-1-s1"),
        ("2", "92.40", "+2.20", "done", "2", "", "digits-1-s2"),
    ]
    assert "+2.10 [+1.85, +2.35]" in muon
    # One that diverged is named, and has no number.
    assert re.search(r">2</th><td[^>]*>–</td><td[^>]*>–</td><td>diverged</td>.*cifar<10>-2-s2</td>",
                     row_of(text, "0-2"))  # fmt: skip


def test_a_verdict_and_its_badge_are_printed_as_they_come(source: Path) -> None:
    found = load_runs(source)
    badges = {True: Badge("primary", (), 3, 3), False: Badge(None, ("a reason",))}
    plan = Plan(contrasts=(("muon", "sgd"),), badge=lambda pair, *_: badges["adamw" in pair])
    table = build_table(found, baseline=["adamw", "sgd"], spread="interval", plan=plan)
    text = report_data.page(table, found, str(source))
    muon, printed = row_of(text, "1-1"), ("registered, primary", "found afterwards")
    for one, badge in zip(table.cells[1][1].comparisons, printed, strict=True):
        assert one is not None
        verdict = f'data-verdict="{one.verdict}"><b>{one.verdict}</b>'
        assert f'{verdict} <span class="badge">{badge}</span>' in muon
        assert f"{one.n} pairs of seeds, p = {one.decisive_p:.2g} corrected" in muon
    pairs = re.search(r'<h2 id="pairs">.*?</table>', text, re.S)
    assert pairs and pairs[0].count('<tr><th scope="row">muon</th><td>sgd</td>') == 2
    assert "-2.10 [-2.35, -1.85]" in pairs[0]
    # One that all have is said once.
    alone = build_table(found, baseline=["adamw"], plan=replace(plan, contrasts=()))
    text = report_data.page(alone, found, str(source))
    assert text.count('<span class="badge">registered, primary</span>') == 1


def test_the_policy_allows_what_is_on_the_page_and_nothing_else(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    policy = html.unescape(re.findall(r'Policy" content="([^"]*)"', text)[0])
    rules = {name: set(rest) for name, *rest in map(str.split, policy.split(";"))}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == {"'none'"}
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        digests = [hashlib.sha256(one.encode()).digest() for one in inline]
        assert rules[rule] == {f"'sha256-{base64.b64encode(one).decode()}'" for one in digests}
    assert " style=" not in text and not re.search(r"\son\w+=", text)


def test_the_numbers_behind_the_curves_are_those_of_the_runs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert found
    charts = json.loads(found[1])
    assert [chart["column"] for chart in charts] == ["0", "1"]
    (muon,) = [one for one in charts[1]["series"] if one["label"] == "muon"]
    accuracies = 100 * (0.92 + 0.002 * np.arange(3) - 0.3 / 5)
    ends = stats.t.interval(0.95, 2, np.mean(accuracies), stats.sem(accuracies))
    assert (muon["n"], muon["x"]) == (3, [1, 2, 3, 4, 5])
    assert [muon[name][-1] for name in ("mean", "low", "high")] == pytest.approx(
        [np.mean(accuracies), *ends], rel=1e-5
    )


def test_a_run_on_a_server_has_its_address(runs: Any, tmp_path: Path) -> None:
    places = ["5f62ae5491", "https://api.wandb.ai/me/spectral-bench", "javascript:alert(1)/a/b"]
    for seed in range(3):
        folder = runs.folder(tmp_path / "runs", runs.config("adamw", seed), runs.summary(0.5))
        status = {"state": "done", "cause": None, "tracked": places[seed : seed + 1]}
        (folder / "status.json").write_text(json.dumps(status))
    report.main([f"source={tmp_path / 'runs'}", f"out={tmp_path / 'r.html'}"])
    links = re.findall(r'<a href="([^"]*)"', (tmp_path / "r.html").read_text())
    (second,) = load_runs(tmp_path / "runs").query("seed == 1")["id"]
    assert links == [f"https://wandb.ai/me/spectral-bench/runs/{second}"]


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
        ([f"source={source}", "sweep=no"], "no runs of sweep 'no'; sweeps here: grid"),
        ([f"source={source}", "baseline=adm"], "no row 'adm' to be the baseline; the nearest is"),
        ([f"source={source}", f"out={source}"], "name another file"),
    ):
        with pytest.raises(UserError, match=message):
            report.main(argv)
