"""What a page says of the choice among trials, from made-up tuning runs."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import study_runs

from analysis.page.selection import figure, html, rows, selection, text, transfers
from analysis.page.trials import at_usual_length, noise_of, trials_of, tuned_difference
from analysis.runs import load_runs

METRIC = "val/accuracy"
# (lr, weight decay): accuracies of three tuning seeds
TRIED = {
    (0.01, 0.1): (0.90, 0.91, 0.92),
    (0.02, 0.1): (0.93, 0.92, 0.94),
    (0.04, 0.1): (0.91, 0.935, 0.90),
    (0.02, 0.2): (0.94, 0.93, 0.95),
    (0.02, 0.05): (0.90, None, 0.91),
}


def write(
    runs: Any, root: Path, tried: dict[Any, Any], *, optimizer: str = "muon", epochs: int = 4
) -> pd.DataFrame:
    """Tuning runs whose AdamW part follows the rate; None: it diverged."""
    for (lr, decay), values in tried.items():
        for seed, value in enumerate(values):
            config = runs.config(
                optimizer, 1000 + seed, sweep="study_x_tune", trainer__epochs=epochs,
                optimizer__lr=lr, optimizer__adamw_lr=lr / 10, optimizer__weight_decay=decay,
            )  # fmt: skip
            state = "diverged" if value is None else "done"
            study_runs.write(runs, root, config, value or 0.1, state=state)
    return load_runs(root)


def test_trials_are_settings_by_seeds_and_what_follows_another_is_no_parameter(
    runs: Any, tmp_path: Path
) -> None:
    (one,) = trials_of(write(runs, tmp_path, TRIED), METRIC)
    assert (one.optimizer, one.keys, one.epochs) == ("muon", ("lr", "weight_decay"), 4)
    assert [tuple(setting) for setting in one.settings] == sorted(TRIED)
    expected = [[math.nan if v is None else v for v in TRIED[key]] for key in sorted(TRIED)]
    np.testing.assert_array_equal(one.scores, expected)


def test_the_table_of_three_tuning_seeds(runs: Any, tmp_path: Path) -> None:
    tuning = write(runs, tmp_path, TRIED)
    (row,) = rows(trials_of(tuning, METRIC), METRIC, math.nan)
    # It leads in all of the 27 draws of three seeds but one: that of the second seed alone.
    assert row == (
        "muon", "lr=0.02, weight_decay=0.2", "94.00", "96 %",
        "lr -3.00, -2.50; weight_decay -1.00, none", "high weight_decay",
    )  # fmt: skip
    closer = {**TRIED, (0.02, 0.2): (0.94, 0.93, 0.90)}  # behind (0.02, 0.1) in the mean
    (row,) = rows(trials_of(write(runs, tmp_path / "b", closer), METRIC), METRIC, math.nan)
    assert row[1:3] == ("lr=0.02, weight_decay=0.1", "93.00")
    assert row[3] not in ("100 %", "–")
    assert row[4] == "lr -2.00, -1.50; weight_decay diverged, -0.67"
    assert row[5] == "no"


def test_one_tuning_seed_is_redrawn_with_the_reports_noise(runs: Any, tmp_path: Path) -> None:
    one_seed = {key: values[:1] for key, values in TRIED.items()}
    write(runs, tmp_path, one_seed)
    shared = (0.0, 0.01, -0.01, 0.02)
    for optimizer, own in (("muon", (0.001, -0.001, 0.002, 0.0)), ("sgd", (0.0, 0.0, 0.0, 0.0))):
        for seed, (common, mine) in enumerate(zip(shared, own, strict=True)):
            config = runs.config(optimizer, seed, sweep="study_x")
            study_runs.write(runs, tmp_path, config, 0.9 + common + mine)
    every = load_runs(tmp_path)
    report, tuning = (every[every["sweep"] == name] for name in ("study_x", "study_x_tune"))
    noise = np.std((0.001, -0.001, 0.002, 0.0), ddof=1) / math.sqrt(2)
    assert noise_of(report, METRIC) == pytest.approx(noise)
    found = selection(tuning, report, METRIC)
    assert found is not None
    assert found.rows[0][3] == "100 %"  # 0.94 to 0.93, at a noise of 0.0009
    assert f"the noise of a run, {100 * noise:.2g} points" in text(found)
    without = selection(tuning, report.iloc[:0], METRIC)
    assert without is not None
    assert without.rows[0][3] == "–"
    assert "do not tell" in text(without)


def test_a_trial_counts_once_all_its_runs_are_finished(runs: Any, tmp_path: Path) -> None:
    tuning = write(runs, tmp_path, TRIED)
    tuning.loc[(tuning["config.optimizer.weight_decay"] == 0.2) & (tuning["seed"] == 1001),
               "state"] = "running"  # fmt: skip
    (one,) = trials_of(tuning, METRIC)
    assert len(one.settings) == len(TRIED) - 1
    assert trials_of(tuning.assign(state="failed"), METRIC) == []
    assert trials_of(tuning.iloc[:0], METRIC) == trials_of(tuning, "val/loss2") == []
    assert selection(tuning.assign(state="failed"), tuning.iloc[:0], METRIC) is None


def test_where_all_diverged_there_is_no_best(runs: Any, tmp_path: Path) -> None:
    lost = dict.fromkeys(TRIED, (None,))
    write(runs, tmp_path, lost)
    tuning = write(runs, tmp_path, {(0.1, 0.1): (0.5,)}, optimizer="sgd")
    row, other = rows(trials_of(tuning, METRIC), METRIC, 0.1)
    assert other == ("sgd", "as in its file", "50.00", "100 %", "–", "no")
    assert row == ("muon", "–", "–", "–", "–", "–")


def test_losses_are_better_when_smaller(runs: Any, tmp_path: Path) -> None:
    tuning = write(runs, tmp_path, TRIED)  # val/loss is 1 - accuracy
    trials = trials_of(tuning, "val/loss")
    (row,) = rows(trials, "val/loss", math.nan)
    assert row[1:3] == ("lr=0.02, weight_decay=0.2", "0.0600")
    assert "weight_decay -0.0100, none" in row[4]
    drawn = figure(trials, "val/loss", "a", "b")
    assert drawn is not None
    y = drawn.axes[0].lines[0].get_ydata()
    assert y[-1] == pytest.approx(0.06)
    assert (np.diff(y) <= 0).all()


def test_the_figure_has_the_expected_best_of_k(runs: Any, tmp_path: Path) -> None:
    drawn = figure(trials_of(write(runs, tmp_path, TRIED), METRIC), METRIC, "a", "b")
    assert drawn is not None
    (one,) = drawn.axes
    (line,) = one.lines
    whole = [np.mean(values) for values in TRIED.values() if None not in values]
    assert line.get_xdata()[-1] == len(TRIED)
    assert line.get_ydata()[-1] == pytest.approx(94)
    assert line.get_ydata()[0] == pytest.approx(100 * np.mean(whole))
    assert len(one.collections) == 1  # the band


def test_what_the_choice_at_a_shorter_length_costs(runs: Any, tmp_path: Path) -> None:
    write(runs, tmp_path, {key: (v[0],) for key, v in TRIED.items()})
    longer = {(0.02, 0.2): (0.95,), (0.02, 0.1): (0.955,), (0.01, 0.1): (0.962,)}
    tuning = write(runs, tmp_path, longer, epochs=8)
    trials = trials_of(tuning, METRIC)
    assert [one.epochs for one in at_usual_length(trials)] == [4]
    (error,) = transfers(trials, METRIC)
    assert error == {
        "optimizer": "muon", "short": "4", "long": "8", "loss": "1.20",
        "chosen": "lr=0.02, weight_decay=0.2", "best": "lr=0.01, weight_decay=0.1",
    }  # fmt: skip
    found = selection(tuning, tuning.iloc[:0], METRIC)
    assert found is not None
    said = " ".join(text(found).split())
    assert (
        "- `muon`: trials of 4 epochs choose lr=0.02, weight_decay=0.2, those of 8 lr=0.01,"
        " weight_decay=0.1; at 8 epochs the first scores 1.20 points worse than the second."
    ) in said
    untried = tuning[(tuning["config.trainer.epochs"] == 4)
                     | (tuning["config.optimizer.weight_decay"] < 0.2)]  # fmt: skip
    (error,) = transfers(trials_of(untried, METRIC), METRIC)
    assert error["loss"] == ""


def test_the_report_has_a_section_of_its_tuning_runs(runs: Any, tmp_path: Path) -> None:
    tuning = write(runs, tmp_path, TRIED)
    page = html(tuning, "study_x")
    assert '<h2 id="tuning">' in page
    assert "<td>lr=0.02, weight_decay=0.2</td>" in page
    assert len(re.findall("<svg", page)) == 1
    assert html(tuning, None) == page
    assert html(tuning, "study_y") == html(tuning.iloc[:0], None) == ""


def test_the_interval_of_a_tuned_difference_is_of_both_tunings(runs: Any, tmp_path: Path) -> None:
    write(runs, tmp_path, TRIED)
    tuning = write(runs, tmp_path, {(0.1, 0.1): (0.9, 0.9, 0.9)}, optimizer="sgd")
    apart = (0.010, 0.012, 0.008, 0.011, 0.009, 0.010, 0.013, 0.007)
    for seed, more in enumerate(apart):
        for optimizer, lr, decay, value in (
            ("muon", 0.02, 0.2, 0.8 + more), ("sgd", 0.1, 0.1, 0.8)
        ):  # fmt: skip
            config = runs.config(
                optimizer, seed, sweep="study_x", optimizer__lr=lr,
                optimizer__adamw_lr=lr / 10, optimizer__weight_decay=decay,
            )  # fmt: skip
            study_runs.write(runs, tmp_path, config, value)
    every = load_runs(tmp_path)
    report, tuning = (every[every["sweep"] == name] for name in ("study_x", "study_x_tune"))
    pair = ("muon", "sgd")
    found = tuned_difference(tuning, report, pair, metric=METRIC, scored_by=METRIC)
    assert found is not None
    # One draw of 27 selects a setting that was never reported, worse by 0.025 of its scores.
    assert found.approximate == pytest.approx(1 / 27, abs=0.01)
    low, high = found.interval
    assert low < 0.010 - 0.015 < np.mean(apart) < high < 0.013
    losses = tuned_difference(tuning, report, pair, metric="val/loss", scored_by="val/loss")
    assert losses is not None
    assert losses.interval == pytest.approx((-high, -low))
    other = tuned_difference(tuning, report, pair, metric="val/loss", scored_by=METRIC)
    assert other is not None
    assert other.interval == pytest.approx(losses.interval)  # the made-up loss is 1 - accuracy
    without = tuning.drop(columns="val/loss")
    unknown = tuned_difference(without, report, pair, metric="val/loss", scored_by=METRIC)
    assert unknown is not None
    assert math.isnan(unknown.interval.low)  # a difference of accuracies is none of losses
    lacking = ("muon", "adamw")
    assert tuned_difference(tuning, report, lacking, metric=METRIC, scored_by=METRIC) is None
