from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import study_runs

from analysis.page.budget import RED, Budget, budgets, line, usual
from analysis.runs import load_runs


def tuning(runs: Any, root: Path) -> pd.DataFrame:
    """Two trials of two seeds for adamw, of which one run diverged; one of muon, and unfinished."""
    for seed in (1000, 1001):
        for rate, state in ((0.1, "done"), (0.2, "diverged" if seed == 1000 else "done")):
            config = runs.config("adamw", seed, optimizer__lr=rate, trainer__epochs=4)
            study_runs.write(runs, root, config, 0.5, state=state)
    for rate, state in ((0.1, "done"), (0.2, "failed"), (0.3, "running")):
        config = runs.config("muon", 1000, optimizer__lr=rate, trainer__epochs=3)
        study_runs.write(runs, root, config, 0.5 if state == "done" else None, state=state)
    return load_runs(root)


def test_budgets_are_counted_from_finished_runs(runs: Any, tmp_path: Path) -> None:
    found = budgets(tuning(runs, tmp_path))
    assert set(found) == {("digits", "convnet", "adamw"), ("digits", "convnet", "muon")}
    adamw, muon = found["digits", "convnet", "adamw"], found["digits", "convnet", "muon"]
    assert adamw.cost == (2, 4, 16.0)
    assert adamw.keys == ("config.optimizer.lr",)
    assert adamw.tried == {(0.1,), (0.2,)}
    assert muon.cost == (1, 1, 3.0)
    assert muon.keys == ()
    assert str(adamw) == "2 trials (4 runs, 16 epochs)"
    assert budgets(load_runs(tmp_path).iloc[:0]) == {}


def test_settings_are_those_that_were_searched() -> None:
    keys = ("config.optimizer.lr", "config.trainer.grad_clip")
    one = Budget(2, 2, 8.0, keys, frozenset({(0.01, None), (0.02, 1.0)}))
    run = {"config.optimizer.lr": 0.02, "config.trainer.grad_clip": 1.0, "config.optimizer.b": 3.0}
    assert one.settings(run) == "lr=0.02, trainer.grad_clip=1"
    assert one.settings({**run, "config.trainer.grad_clip": None}).endswith(
        f"trainer.grad_clip=null {RED} not among its trials"
    )
    assert Budget().settings(run) == "lr=0.02"
    assert Budget().settings({}) == "–"


def test_what_is_no_setting_is_not_searched(runs: Any, tmp_path: Path) -> None:
    for rate, threads in ((0.1, 1), (0.1, 2)):
        config = runs.config(
            "adamw", 1000, optimizer__lr=rate, trainer__threads=threads, data_dir=f"d{threads}"
        )
        config["id"] += str(threads)
        study_runs.write(runs, tmp_path, config, 0.5)
    assert budgets(load_runs(tmp_path))["digits", "convnet", "adamw"].keys == ()


def test_the_line_says_whether_budgets_are_equal(runs: Any, tmp_path: Path) -> None:
    rows = tuning(runs, tmp_path)
    one, two = Budget(6, 6, 24.0), Budget(6, 6, 30.0)
    assert line({"a": one, "b": one}, rows) == (
        "Tuning budgets are equal: 6 trials (6 runs, 24 epochs) each, on the validation split,"
        " seeds 1000-1001."
    )
    unequal = line({"b": two, "a": one}, rows)
    assert unequal.startswith(f"{RED} **Tuning budgets are unequal**: a 6 trials (6 runs, 24 epoch")
    assert "b 6 trials (6 runs, 30 epochs)" in unequal
    assert RED in line({"a": Budget(), "b": one}, rows)
    assert line({"a": Budget(), "b": Budget()}, rows) == (
        f"{RED} **Untuned**: settings are those of the sweep and of the optimizers' files."
    )
    alone = line({"a": Budget()}, rows)
    assert alone == "Untuned: settings are those of the sweep and of the optimizers' files."
    assert "runs that are in no archive" in line({"a": Budget()}, rows, tuned=True)
    assert "no archive" not in line({"a": one}, rows, tuned=True)


def test_trials_of_two_lengths_differ_in_no_setting_by_that(runs: Any, tmp_path: Path) -> None:
    for epochs, rate in ((4, 0.1), (8, 0.1), (8, 0.2)):
        config = runs.config("adamw", 1000, optimizer__lr=rate, trainer__epochs=epochs)
        study_runs.write(runs, tmp_path, config, 0.5)
    found = budgets(load_runs(tmp_path))["digits", "convnet", "adamw"]
    assert found.cost == (3, 3, 20.0)
    assert found.keys == ("config.optimizer.lr",)
    assert found.tried == {(0.1,), (0.2,)}


def test_the_line_says_what_is_carried_over_and_what_was_known(runs: Any, tmp_path: Path) -> None:
    rows = tuning(runs, tmp_path)
    rows = rows[rows["optimizer"] == "adamw"]
    report = rows.assign(**{"config.trainer.epochs": 30, "config.trainer.log_every": 99})
    one = Budget(6, 6, 24.0)
    said = line({"a": one}, rows, report=report, known=["The damping is.", "Rates are."])
    assert said.endswith(
        " Settings are carried over from other runs than those reported: trainer.epochs 4 in"
        " trials, 30 here. Known before the first trial: The damping is. Rates are."
    )
    assert "carried" not in line({"a": one}, rows, report=rows)
    assert "carried" not in line({"a": Budget()}, rows, report=report)


def test_the_usual_budget() -> None:
    one, two = Budget(6, 6, 24.0), Budget(8, 8, 32.0)
    assert usual([one, two, one]) == (6, 6, 24.0)
    assert usual([two, one]) == usual([one, two]) == (8, 8, 32.0)
