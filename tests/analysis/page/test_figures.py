"""The figures of a study's page, read back from what is drawn."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import study_runs
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis.page.budget import budgets
from analysis.page.figures import axes, best_trials, colours, missing, sensitivity, training
from analysis.page.table import metric_of, results
from analysis.run import archive as run_archive
from analysis.runs import load_runs


def drawn(root: Path, x: str) -> Figure:
    archive = root.with_suffix(".parquet")
    run_archive.write(archive, run_archive.gather(root))
    runs = load_runs(archive)
    report = runs[runs["sweep"] == "study_x"]
    (found,) = results(report, budgets(runs))
    figure = training(found, report, str(archive), x)
    assert figure is not None
    return figure


def plot(root: Path, x: str) -> Axes:
    (one,) = drawn(root, x).axes
    return one


def lines(one: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """The points of each line, by the optimizer's name."""
    return {str(line.get_label()).split()[-1]: (list(line.get_xdata()), list(line.get_ydata()))
            for line in one.lines}  # fmt: skip


def ends(one: Axes, x: float) -> tuple[float, float]:
    """The ends of the only band at ``x``."""
    (band,) = one.collections
    at = np.array([y for along, y in band.get_paths()[0].vertices if along == pytest.approx(x)])
    return at.min(), at.max()


def test_a_training_figure_has_a_line_and_a_band_each_best_first(runs: Any, tmp_path: Path) -> None:
    accuracies = {"adamw": [0.8, 0.82], "muon": [0.9, 0.91], "sgd": [0.7, 0.75]}
    root = study_runs.study(runs, tmp_path / "runs", accuracies, seconds=2.0)
    figure = drawn(root, "seconds")
    (one,) = figure.axes
    last = 100 * 4 / 4.1  # of the made-up histories
    assert [line.get_label() for line in one.lines] == [
        f"{last * 0.905:.2f}  muon", f"{last * 0.81:.2f}  adamw", f"{last * 0.725:.2f}  sgd"
    ]  # fmt: skip
    assert lines(one)["sgd"][0] == [2, 4, 6, 8]  # 4 epochs of 2 seconds
    assert len(one.collections) == 3
    assert [text.get_text() for text in figure.texts] == [
        "convnet on digits", "test/accuracy against seconds of training; 20 epochs, 2 seeds"
    ]  # fmt: skip
    assert plot(root, "epoch").get_xlabel() == "epochs"


def test_seconds_are_those_of_the_runs_that_had_the_device_alone(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"adamw": [0.8, 0.82]}, seconds=2.0)
    for seed in (2, 3, 4):
        config = runs.config("adamw", seed, sweep="study_x", optimizer__lr=1e-2, tuned=True)
        study_runs.write(runs, root, config, 0.81, packed=4, seconds=50.0)
    assert lines(plot(root, "seconds"))["adamw"][0] == [2, 4, 6, 8]


def test_seconds_far_apart_are_on_a_logarithmic_scale(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"adamw": [0.8, 0.82]}, seconds=0.5)
    near = root.parent / "near"
    shutil.copytree(root, near)
    for folder, seconds in ((near, 2.4), (root, 2.6)):
        for seed in (0, 1):
            config = runs.config("soap", seed, sweep="study_x", optimizer__lr=1e-2, tuned=True)
            study_runs.write(runs, folder, config, 0.9, seconds=seconds)
    for folder, x, scale in (
        (near, "seconds", "linear"), (root, "seconds", "log"), (root, "epoch", "linear")
    ):  # fmt: skip
        one = plot(folder, x)
        assert one.get_xscale() == scale
        assert ("(logarithmic)" in one.get_xlabel()) == (scale == "log")


def test_rows_without_seconds_take_no_line_from_others(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"adamw": [0.1]})
    for place in range(12):
        config = runs.config(f"opt{place}", 0, sweep="study_x", optimizer__lr=1e-2, tuned=True)
        packed = 4 if place > 5 else 1  # the better half shared its device
        study_runs.write(runs, root, config, 0.5 + place / 100, packed=packed)
    assert set(lines(plot(root, "seconds"))) == {"adamw", *(f"opt{k}" for k in range(6))}


def test_rows_that_are_not_drawn_are_named(runs: Any, tmp_path: Path) -> None:
    def absent(accuracies: dict[str, list[float]], packed: Sequence[str] = ()) -> list[list[str]]:
        root = study_runs.study(runs, tmp_path / str(len(accuracies)), accuracies)
        for name in packed:
            config = runs.config(name, 0, sweep="study_x", optimizer__lr=1e-2, tuned=True)
            study_runs.write(runs, root, config, 0.5, packed=4)
        report = load_runs(root)
        (found,) = results(report[report["sweep"] == "study_x"], {})
        return [missing(found, x) for x in axes(found)]

    few = {f"opt{k}": [0.5 + k / 100] for k in range(7)} | {"adamw": [0.4]}
    assert absent(few) == [[], []]
    assert absent(few | {"opt8": [0.9]}, packed=["lion"]) == [["lion", "opt0"]] * 2
    assert absent({"adamw": [0.4]}, packed=["lion"]) == [["lion"], []]


def test_a_language_model_is_drawn_against_tokens(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(
        runs, tmp_path / "runs", {"adamw": [0.8, 0.82]}, seconds=2.0, tokens_per_second=500.0
    )
    report = load_runs(root)
    (found,) = results(report[report["sweep"] == "study_x"], {})
    assert axes(found) == ["seconds", "tokens"]
    one = plot(root, "tokens")
    assert lines(one)["adamw"][0] == [1000, 2000, 3000, 4000]
    assert one.lines[0].get_label() == "0.250  adamw"  # the made-up loss after 4 epochs


def test_the_band_is_students_interval(runs: Any, tmp_path: Path) -> None:
    values = [0.80, 0.82, 0.85]
    one = plot(study_runs.study(runs, tmp_path / "runs", {"adamw": values}), "epoch")
    final = [100 * value * 4 / 4.1 for value in values]
    assert ends(one, 4) == pytest.approx(
        stats.t.interval(0.95, 2, sum(final) / 3, stats.sem(final))
    )


def test_the_band_of_an_accuracy_ends_at_0_and_100(runs: Any, tmp_path: Path) -> None:
    values = [0.60, 1.00]  # Student's interval of two: 100 times their half distance, and more
    one = plot(study_runs.study(runs, tmp_path / "runs", {"adamw": values}), "epoch")
    assert ends(one, 4) == (0, 100)
    rows = [("a", rate, f"{rate}", seed, value, "done") for rate in (1e-3, 1e-2)
            for seed, value in enumerate(values)]  # fmt: skip
    rates = sensitivity(trials(*rows), "val/accuracy")
    assert rates is not None
    assert ends_of_bands(rates) == (0, 100)


def ends_of_bands(figure: Figure) -> tuple[float, float]:
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    return band.min(), band.max()


def test_rows_of_fewer_than_three_seeds_are_left_out_where_others_have_more(
    runs: Any, tmp_path: Path
) -> None:
    accuracies = {"adamw": [0.80, 0.82, 0.85], "muon": [0.9, 0.91]}
    root = study_runs.study(runs, tmp_path / "runs", accuracies)
    assert set(lines(plot(root, "epoch"))) == {"adamw"}


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
    one = plot(root, "epoch")
    best = {f"opt{k}" for k in range(7, 12)}
    assert set(lines(one)) == best | {"adamw", "muon", "spectral_newton"}
    assert not one.collections  # one seed has no interval


def trials(*rows: tuple[str, float, str, int, float, str]) -> pd.DataFrame:
    names = ["optimizer", "config.optimizer.lr", "variant", "seed", "val/accuracy", "state"]
    return pd.DataFrame(rows, columns=names).assign(model="m", dataset="d")


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
    figure = sensitivity(three, "val/accuracy")
    assert figure is not None
    (one,) = figure.axes
    assert (one.get_xscale(), one.get_xlabel()) == ("log", "learning rate")
    assert lines(one) == {  # one rate is no line
        name: (pytest.approx([1e-3, 1e-2, 1e-1]), pytest.approx([50.1, 51, 60])) for name in "ab"
    }
    scored = trials(*rows).assign(**{"val/loss": [0.2, 0.1, 0.4] * 2})
    losses = sensitivity(scored, "val/loss")
    assert losses is not None and lines(losses.axes[0])["a"][1] == [0.2, 0.1, 0.4]
    assert sensitivity(trials(rows[0]), "val/accuracy") is None
    without = trials(rows[0]).drop(columns="config.optimizer.lr")
    assert sensitivity(without, "val/accuracy") is None
