from __future__ import annotations

from pathlib import Path
from typing import Any

import map_runs
import pandas as pd
import pytest
import study_runs

from analysis.page.budget import Budget
from analysis.page.maps import Map, Setting, axes_of, build, of_places
from analysis.runs import load_runs

AXES = ("config.optimizer.alpha", "config.optimizer.damping")


def at(found: Map, *values: float) -> Setting:
    (one,) = [one for one in found.settings if one.values == values]
    return one


def test_settings_that_no_tuning_chose_make_a_map(runs: Any, tmp_path: Path) -> None:
    found = load_runs(map_runs.write(runs, tmp_path))
    assert axes_of(found, {}) == {map_runs.PLACE: AXES}
    tuned = {map_runs.PLACE: Budget(keys=("config.optimizer.lr", AXES[0]))}
    assert axes_of(found, tuned) == {map_runs.PLACE: AXES[1:]}
    assert axes_of(found, {map_runs.PLACE: Budget(keys=AXES)}) == {}
    assert of_places(found, [map_runs.PLACE]).all()
    assert not of_places(found, [("digits", "convnet", "adamw")]).any()
    assert not of_places(found, []).any()


def test_learning_rates_alone_make_none(runs: Any, tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        one = runs.config("adamw", 0, sweep="study_m", optimizer__lr=rate)
        study_runs.write(runs, tmp_path, one, 0.9)
    assert axes_of(load_runs(tmp_path), {}) == {}


def test_two_files_of_measured_exponents_make_none(runs: Any, tmp_path: Path) -> None:
    for number in range(2):
        exponents = tmp_path / f"{number}.parquet"
        exponents.write_bytes(bytes([number]))
        changes = {"optimizer__exponents": str(exponents), "optimizer__alpha": "measured"}
        one = runs.config("spectral_newton", 0, sweep="study_m", **changes)
        study_runs.write(runs, tmp_path / "runs", one, 0.9)
    found = load_runs(tmp_path / "runs")
    assert len(found) == 2 and axes_of(found, {}) == {}


def test_words_come_first_then_few_numbers(runs: Any, tmp_path: Path) -> None:
    map_runs.write(runs, tmp_path)
    setting = {"alpha": 1.0, "damping": 0.5, "normalize": "none", "lr": 0.02}
    study_runs.write(runs, tmp_path, map_runs.config(runs, setting, 0, "study_m"), 0.5)
    (axes,) = axes_of(load_runs(tmp_path), {}).values()
    assert axes == ("config.optimizer.normalize", *AXES)


def test_each_setting_is_shown_at_its_best_rate(runs: Any, tmp_path: Path) -> None:
    found = build(load_runs(map_runs.write(runs, tmp_path)), map_runs.PLACE, AXES)
    assert found.rates == map_runs.RATES
    assert [one.values for one in found.settings] == [(1, 0.01), (1, 0.1), (2, 0.01), (2, 0.1)]
    assert found.chosen_by == "val/accuracy"
    one = at(found, 1.0, 0.1)
    assert (one.rate, one.end, one.cell.n, one.cell.expected) == (0.08, 1, 2, 2)
    assert one.cell.mean == pytest.approx(0.911)  # of lr 0.08 alone: no mean over rates
    assert found.best is at(found, 2.0, 0.01)


def test_a_rate_that_lost_a_seed_is_not_the_best(runs: Any, tmp_path: Path) -> None:
    for rate, seed in ((0.02, 0), (0.02, 1), (0.08, 0), (0.08, 1)):
        for damping in (0.1, 0.5):
            setting = {"damping": damping, "lr": rate}
            one = map_runs.config(runs, setting, seed, "study_m")
            lost = (rate, seed) == (0.08, 1) or damping == 0.5
            study_runs.write(runs, tmp_path, one, rate, state="diverged" if lost else "done")
    found = build(load_runs(tmp_path), map_runs.PLACE, AXES[1:])
    good, bad = found.settings
    assert (good.rate, good.end, good.diverged, good.cell.n) == (0.02, -1, 1, 2)
    assert (bad.rate, bad.end, bad.diverged, bad.cell.n) == (None, 0, 4, 0)
    assert found.best is good


def test_what_else_differs_is_not_averaged_over(runs: Any, tmp_path: Path) -> None:
    for epochs in (4, 8):
        for damping in (0.1, 0.01):
            one = runs.config(
                "spectral_newton", 0, sweep="study_m", trainer__epochs=epochs,
                optimizer__damping=damping,
            )  # fmt: skip
            study_runs.write(runs, tmp_path, one, 0.1 * epochs)
    found = build(load_runs(tmp_path), map_runs.PLACE, AXES[1:])
    assert [(one.values[0], one.also) for one in found.settings] == [
        (0.01, "trainer.epochs=4"), (0.01, "trainer.epochs=8"),
        (0.1, "trainer.epochs=4"), (0.1, "trainer.epochs=8"),
    ]  # fmt: skip
    assert {one.cell.n for one in found.settings} == {1}


def test_the_end_of_the_rates_is_that_of_the_setting_itself(runs: Any, tmp_path: Path) -> None:
    for damping, rates in ((0.1, (0.1, 0.2)), (0.01, (0.1, 0.2, 0.4)), (0.001, (0.4,))):
        for rate in rates:
            one = map_runs.config(runs, {"damping": damping, "lr": rate}, 0, "study_m")
            study_runs.write(runs, tmp_path, one, rate)
    found = build(load_runs(tmp_path), map_runs.PLACE, AXES[1:])
    assert found.rates == (0.1, 0.2, 0.4)
    assert [(one.rate, one.end) for one in found.settings] == [(0.4, 0), (0.4, 1), (0.2, 1)]


def test_of_losses_the_least_on_validation_data_chooses(runs: Any, tmp_path: Path) -> None:
    for damping in (0.1, 0.01):
        for rate, validation, test in ((0.1, 2.0, 1.0), (0.2, 1.0, 3.0), (0.4, 1.0, 0.5)):
            one = map_runs.config(runs, {"damping": damping, "lr": rate}, 0, "study_m")
            ends = {"tokens_per_second": 1.0, "test/loss": test + damping}
            study_runs.write(runs, tmp_path, one, 1 - validation, **ends)
    found = build(load_runs(tmp_path), map_runs.PLACE, AXES[1:])
    assert (found.table.metric, found.chosen_by) == ("test/loss", "val/loss")
    assert [(one.rate, one.cell.mean) for one in found.settings] == [(0.2, 3.01), (0.2, 3.1)]
    assert found.best is at(found, 0.01)


def test_a_list_is_a_value_like_others(runs: Any, tmp_path: Path) -> None:
    for betas in ([0.9, 0.95], [0.9, 0.99]):
        one = runs.config("adamw", 0, sweep="study_m", optimizer__betas=betas)
        study_runs.write(runs, tmp_path, one, 0.5)
    found = build(
        load_runs(tmp_path), ("digits", "convnet", "adamw"), ("config.optimizer.betas",)
    )  # fmt: skip
    assert [(one.values, one.also) for one in found.settings] == [
        (("[0.9, 0.95]",), ""), (("[0.9, 0.99]",), "")
    ]  # fmt: skip


def test_places_of_a_table_of_measured_layers() -> None:
    table = pd.DataFrame({"dataset": ["d", "d"], "model": ["m", "n"], "optimizer": ["o", "o"]})
    assert of_places(table, [("d", "n", "o")]).tolist() == [False, True]
