from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.page.planned import Plan, plan

FILE = """# A study.
hydra:
  sweeper:
    params:
      optimizer: "sgd,\\
        muon"
      optimizer.damping: 0.1,1e-3
      optimizer.normalize: none,frobenius
      seed: 0,1
"""


def read(path: Path, text: str) -> Plan:
    path.write_text(text)
    return plan(path)


def test_values_are_what_hydra_makes_of_them(tmp_path: Path) -> None:
    found = read(tmp_path / "s.yaml", FILE)
    assert found.axes == {
        "optimizer": ("sgd", "muon"),
        "optimizer.damping": (0.1, 0.001),
        "optimizer.normalize": ("none", "frobenius"),
        "seed": (0, 1),
    }
    assert found.size == 16


def test_one_value_is_an_axis_of_one(tmp_path: Path) -> None:
    found = read(tmp_path / "s.yaml", "hydra: {sweeper: {params: {seed: 3, model: mlp}}}")
    assert (found.axes, found.size) == ({"seed": (3,), "model": ("mlp",)}, 1)


def test_what_cannot_be_read_off_plans_nothing(tmp_path: Path) -> None:
    ranges = read(tmp_path / "s.yaml", 'hydra: {sweeper: {params: {seed: "range(0,5)"}}}')
    for one in (ranges, read(tmp_path / "t.yaml", "a: 1"), plan(None)):
        assert (one.size, one.absent(pd.DataFrame({"seed": [0]}))) == (0, {})


def test_values_that_no_run_has(tmp_path: Path) -> None:
    planned = read(tmp_path / "s.yaml", FILE)
    runs = pd.DataFrame(
        {
            "optimizer": ["muon", "muon"],
            "seed": [0, 1],
            "config.optimizer.damping": [0.001, 0.001],
            "config.optimizer.normalize": ["frobenius", "none"],
        }
    )
    assert planned.absent(runs) == {"optimizer": ["sgd"], "optimizer.damping": ["0.1"]}
    assert planned.absent(runs[["seed"]]) == {}  # of the rest these runs say nothing


def test_a_missing_value_is_no_value(tmp_path: Path) -> None:
    planned = read(tmp_path / "s.yaml", "hydra: {sweeper: {params: {optimizer.clip: '1.0,2.0'}}}")
    runs = pd.DataFrame({"config.optimizer.clip": [1.0, float("nan")]})
    assert planned.absent(runs) == {"optimizer.clip": ["2.0"]}


def test_what_tuning_is_scored_by(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    rest = "trials: 6, extension: 2, seeds: [1000], space: {}"
    path.write_text(f"study: {{tuning: {{metric: val/loss, {rest}}}}}")
    assert plan(path).scored_by == "val/loss"
    path.write_text(FILE)
    assert plan(path).scored_by is plan(None).scored_by is None


def test_how_often_results_were_seen(tmp_path: Path) -> None:
    assert read(tmp_path / "s.yaml", FILE).looks == 1
    assert read(tmp_path / "t.yaml", FILE + "study: {looks: 3}\n").looks == 3


def test_what_is_to_be_compared_besides(tmp_path: Path) -> None:
    assert read(tmp_path / "s.yaml", FILE).contrasts == ()
    asked = read(tmp_path / "t.yaml", FILE + "study: {contrasts: [[muon, sgd]]}\n").contrasts
    assert asked == (("muon", "sgd"),)


def test_null_is_a_value_and_lists_are_not_compared(tmp_path: Path) -> None:
    text = "hydra: {sweeper: {params: {optimizer.clip: 'null,2.0', optimizer.betas: '[0.9,0.99]'}}}"
    planned = read(tmp_path / "s.yaml", text)
    assert planned.axes == {"optimizer.clip": (None, 2.0), "optimizer.betas": ([0.9, 0.99],)}
    runs = pd.DataFrame({"config.optimizer.clip": [2.0], "config.optimizer.betas": ["(0.9, 0.99)"]})
    assert planned.absent(runs) == {"optimizer.clip": ["null"]}
    runs = pd.DataFrame({"config.optimizer.clip": [float("nan")]})
    assert planned.absent(runs) == {"optimizer.clip": ["2.0"]}
