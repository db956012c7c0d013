from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import study_runs
from scipy import stats

from analysis.page.budget import budgets
from analysis.page.figures import axes, best_trials, colours, document, sensitivity, training, words
from analysis.page.table import metric_of, results
from analysis.run import archive as run_archive
from analysis.runs import load_runs

SVG = "{http://www.w3.org/2000/svg}"


def drawn(root: Path, x: str) -> str:
    archive = root.with_suffix(".parquet")
    run_archive.write(archive, run_archive.gather(root))
    runs = load_runs(archive)
    report = runs[runs["sweep"] == "study_x"]
    (found,) = results(report, budgets(runs))
    return training(found, report, str(archive), x, title="A < B")


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_a_training_figure_has_a_line_a_band_and_a_key_each(runs: Any, tmp_path: Path) -> None:
    accuracies = {"adamw": [0.8, 0.82], "muon": [0.9, 0.91], "sgd": [0.7, 0.75]}
    root = study_runs.study(runs, tmp_path / "runs", accuracies, seconds=2.0)
    svg = drawn(root, "seconds")
    assert svg == drawn(root, "seconds")
    found = texts(svg)
    assert found[0] == "A < B"
    keys = [text for text in found if text.split()[-1] in accuracies]
    last = 100 * 4 / 4.1  # of the made-up histories
    assert keys == [f"{last * 0.905:.2f}  muon", f"{last * 0.81:.2f}  adamw",
                    f"{last * 0.725:.2f}  sgd"]  # fmt: skip
    assert "seconds of training" in found
    assert "8" in found  # 4 epochs of 2 seconds
    assert svg.count('class="band') == 3
    assert "prefers-color-scheme:dark" in svg
    assert "epochs" in texts(drawn(root, "epoch"))


def test_seconds_are_those_of_the_runs_that_had_the_device_alone(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"adamw": [0.8, 0.82]}, seconds=2.0)
    for seed in (2, 3, 4):
        config = runs.config("adamw", seed, sweep="study_x", optimizer__lr=1e-2, tuned=True)
        study_runs.write(runs, root, config, 0.81, packed=4, seconds=50.0)
    shown = [float(text) for text in texts(drawn(root, "seconds")) if text.isdigit()]
    assert 8 in shown  # 4 epochs of 2 seconds
    assert max(shown) < 90  # those of the axes; 4 epochs of 50 s would end at 200


def test_seconds_far_apart_are_on_a_logarithmic_scale(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"adamw": [0.8, 0.82]}, seconds=0.5)
    near = root.parent / "near"
    shutil.copytree(root, near)
    for folder, seconds in ((near, 2.4), (root, 2.6)):
        for seed in (0, 1):
            config = runs.config("soap", seed, sweep="study_x", optimizer__lr=1e-2, tuned=True)
            study_runs.write(runs, folder, config, 0.9, seconds=seconds)
    assert "seconds of training" in texts(drawn(near, "seconds"))
    assert {"seconds of training (logarithmic)", "0.5", "1", "10"} <= set(
        texts(drawn(root, "seconds"))
    )
    assert "epochs" in texts(drawn(root, "epoch"))


def test_rows_without_seconds_take_no_line_from_others(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"adamw": [0.1]})
    for place in range(12):
        config = runs.config(f"opt{place}", 0, sweep="study_x", optimizer__lr=1e-2, tuned=True)
        packed = 4 if place > 5 else 1  # the better half shared its device
        study_runs.write(runs, root, config, 0.5 + place / 100, packed=packed)
    shown = {text.split()[-1] for text in texts(drawn(root, "seconds"))}
    assert {name for name in shown if name.startswith("opt")} == {f"opt{k}" for k in range(6)}


def test_the_words_name_the_rows_that_are_not_drawn(runs: Any, tmp_path: Path) -> None:
    def said(accuracies: dict[str, list[float]], packed: Sequence[str] = ()) -> str:
        root = study_runs.study(runs, tmp_path / str(len(accuracies)), accuracies)
        for name in packed:
            config = runs.config(name, 0, sweep="study_x", optimizer__lr=1e-2, tuned=True)
            study_runs.write(runs, root, config, 0.5, packed=4)
        report = load_runs(root)
        (found,) = results(report[report["sweep"] == "study_x"], {})
        return words(found)

    few = {f"opt{k}": [0.5 + k / 100] for k in range(7)} | {"adamw": [0.4]}
    assert "Not drawn" not in said(few)
    text = said(few | {"opt8": [0.9]}, packed=["lion"])
    assert text.endswith(
        "Not drawn against seconds of training: `lion`, `opt0`."
        " Not drawn against epochs: `lion`, `opt0`.\n"
    )
    assert "seconds of training: `lion`." in said({"adamw": [0.4]}, packed=["lion"])


def test_a_language_model_is_drawn_against_tokens(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(
        runs, tmp_path / "runs", {"adamw": [0.8, 0.82]}, seconds=2.0, tokens_per_second=500.0
    )
    report = load_runs(root)
    (found,) = results(report[report["sweep"] == "study_x"], {})
    assert axes(found) == ["seconds", "tokens"]
    shown = texts(drawn(root, "tokens"))
    assert {"tokens", "4000"} <= set(shown)  # 4 epochs of 1000
    assert shown[-1] == "0.250  adamw"  # the made-up loss after 4 epochs


def test_the_band_is_students_interval(runs: Any, tmp_path: Path) -> None:
    values = [0.80, 0.82, 0.85]
    svg = drawn(study_runs.study(runs, tmp_path / "runs", {"adamw": values}), "epoch")
    band = re.findall(r'class="band c1" d="M([^Z]*)Z', svg)[0].split("L")
    line = re.findall(r'class="line c1" d="M(\d[^"]*)"', svg)[0].split("L")
    high, middle, low = (
        float(point.split()[1]) for point in (band[3], line[3], band[4])
    )  # of the last epoch
    final = [100 * value * 4 / 4.1 for value in values]
    ends = stats.t.interval(0.95, 2, sum(final) / 3, stats.sem(final))
    first = float(line[0].split()[1])
    scale = (first - middle) / (sum(final) / 3 - 100 * sum(values) / 3 / 1.1)  # pixels a point
    assert middle - high == pytest.approx(scale * (ends[1] - sum(final) / 3), abs=0.11)
    assert low - middle == pytest.approx(scale * (sum(final) / 3 - ends[0]), abs=0.11)


def test_the_band_of_an_accuracy_ends_at_0_and_100(runs: Any, tmp_path: Path) -> None:
    values = [0.60, 1.00]  # Student's interval of two: 100 times their half distance, and more
    svg = drawn(study_runs.study(runs, tmp_path / "runs", {"adamw": values}), "epoch")
    band = re.findall(r'class="band c1" d="M([^Z]*)Z', svg)[0].split("L")
    line = re.findall(r'class="line c1" d="M(\d[^"]*)"', svg)[0].split("L")
    heights = [[float(point.split()[1]) for point in part] for part in (band, line)]
    means = [80 * epoch / (epoch + 0.1) for epoch in range(1, 5)]
    scale = (heights[1][0] - heights[1][3]) / (means[3] - means[0])  # pixels a point
    for above, below, at, mean in zip(
        heights[0][:4], heights[0][:3:-1], heights[1], means, strict=True
    ):
        assert at - above == pytest.approx(scale * (100 - mean), abs=1)
        assert below - at == pytest.approx(scale * mean, abs=4)
    rows = [("a", rate, f"{rate}", seed, value, "done") for rate in (1e-3, 1e-2)
            for seed, value in enumerate(values)]  # fmt: skip
    shown = texts(sensitivity(trials(*rows), "val/accuracy", title="rates"))
    assert "100" in shown and not {"-50", "105", "120", "150", "200"} & set(shown)


def test_rows_of_fewer_than_three_seeds_are_left_out_where_others_have_more(
    runs: Any, tmp_path: Path
) -> None:
    accuracies = {"adamw": [0.80, 0.82, 0.85], "muon": [0.9, 0.91]}
    shown = texts(drawn(study_runs.study(runs, tmp_path / "runs", accuracies), "epoch"))
    assert any("adamw" in text for text in shown) and not any("muon" in text for text in shown)


def test_the_compared_ones_have_the_same_colour_in_every_figure() -> None:
    one, other = colours(["muon", "lion", "adamw"]), colours(["adamw", "sgd", "spectral_newton"])
    assert (
        one["adamw"] == other["adamw"] == 1 and one["muon"] == 2 and other["spectral_newton"] == 0
    )
    assert one["lion"] == other["sgd"] == 3


def test_at_most_eight_lines_the_compared_ones_among_them(runs: Any, tmp_path: Path) -> None:
    accuracies = {f"opt{k}": [0.5 + k / 100] for k in range(12)}
    accuracies |= {"adamw": [0.1], "muon": [0.2], "spectral_newton": [0.3]}
    root = study_runs.study(runs, tmp_path / "runs", accuracies)
    svg = drawn(root, "epoch")
    assert "nan" not in svg  # one seed has no interval
    shown = {text.split()[-1] for text in texts(svg)}
    best = {f"opt{k}" for k in range(7, 12)}
    assert shown & set(accuracies) == best | {"adamw", "muon", "spectral_newton"}


def test_no_history_no_figure(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"adamw": [0.5]})
    for path in root.rglob("history.jsonl"):
        path.unlink()
    assert drawn(root, "epoch") == ""


def trials(*rows: tuple[str, float, str, int, float, str]) -> pd.DataFrame:
    names = ["optimizer", "config.optimizer.lr", "variant", "seed", "val/accuracy", "state"]
    return pd.DataFrame(rows, columns=names)


def test_a_rates_best_trial_counts_whole_ones_only() -> None:
    tuning = trials(
        ("a", 0.1, "v1", 1000, 0.5, "done"),
        ("a", 0.1, "v1", 1001, 0.7, "done"),
        ("a", 0.1, "v2", 1000, 0.9, "done"),
        ("a", 0.1, "v2", 1001, 0.9, "diverged"),
        ("a", 0.2, "v3", 1000, math.nan, "diverged"),
        ("b", 0.2, "v4", 1000, 0.4, "done"),
        ("b", 0.2, "v5", 1000, 0.3, "done"),
    )
    found = best_trials(tuning, metric_of(tuning, "val"))
    assert list(zip(found["optimizer"], found["lr"], strict=True)) == [
        ("a", 0.1), ("a", 0.2), ("b", 0.2)
    ]  # fmt: skip
    assert found["value"].tolist() == pytest.approx([0.6, math.nan, 0.4], nan_ok=True)
    assert found["high"][0] == pytest.approx(stats.t.interval(0.95, 1, 0.6, 0.1)[1])
    losses = tuning.rename(columns={"val/accuracy": "val/loss"}).assign(tokens_per_second=1.0)
    usual = best_trials(losses, metric_of(losses, "val"))["value"].tolist()
    assert usual == pytest.approx([0.6, math.nan, 0.3], nan_ok=True)
    both = tuning.assign(**{"val/loss": 1 - tuning["val/accuracy"]})  # accuracy is the usual one
    scored = best_trials(both, "val/loss")["value"].tolist()
    assert scored == pytest.approx([0.4, math.nan, 0.6], nan_ok=True)


def test_the_sensitivity_figure() -> None:
    rows = [
        (name, rate, f"{name}{rate}", 1000, 0.5 + rate, "done")
        for name in ("a", "b") for rate in (1e-3, 1e-2, 1e-1)
    ]  # fmt: skip
    three = trials(*rows, ("c", 0.1, "c", 1000, 0.5, "done"))
    svg = sensitivity(three, "val/accuracy", title="rates")
    found = texts(svg)
    assert {"0.001", "0.01", "0.1", "a", "b", "learning rate"} <= set(found)
    assert "c" not in found  # one rate is no line
    scored = trials(*rows).assign(**{"val/loss": [0.2, 0.1, 0.4] * 2})
    assert {"0.2", "0.3"} <= set(texts(sensitivity(scored, "val/loss", title="rates")))
    assert sensitivity(trials(rows[0]), "val/accuracy", title="rates") == ""
    without = trials(rows[0]).drop(columns="config.optimizer.lr")
    assert sensitivity(without, "val/accuracy", title="r") == ""


def test_a_long_legend_has_room() -> None:
    svg = document("<svg></svg>", [(f"l{k}", k) for k in range(30)], "t")
    root = ElementTree.fromstring(svg)
    lowest = max(float(e.get("y", 0)) for e in root.iter(f"{SVG}text"))
    assert float(root.get("height", 0)) > lowest
    assert svg.count("dashed") >= 22
