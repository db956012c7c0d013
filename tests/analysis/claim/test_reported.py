"""Runs by which optimizers are judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from measured_tables import write_run

from analysis.claim.check import check
from analysis.claim.model import Claim, load_claims
from analysis.claim.reported import in_pairs, reported
from analysis.run.measured import load


def _gain() -> Claim:
    return next(claim for claim in load_claims() if claim.id == "spectral-newton-gain")


def _runs(root: Path, optimizer: str, accuracies: dict[int, float], name: str = "") -> None:
    for seed, accuracy in accuracies.items():
        run = f"{optimizer}{seed}{name}"
        write_run(root, run, [], optimizer=optimizer, seed=seed, accuracy=accuracy)


def test_runs_of_tuning_and_unfinished_ones_are_no_report() -> None:
    runs = pd.DataFrame(
        {
            "id": list("abcd"),
            "seed": pd.array([0, 1000, None, 1], dtype="Int64"),
            "state": ["done", "done", "done", "diverged"],
        }
    )
    assert list(reported(runs)["id"]) == ["a", "c"]


def test_only_runs_with_a_counterpart_are_compared() -> None:
    columns = {"dataset": "d", "model": "m"}
    left = pd.DataFrame({**columns, "sweep": ["a", "a", "b"], "seed": [0, 1, 0]})
    right = pd.DataFrame({**columns, "sweep": ["a", "b", "b"], "seed": [1, 0, 2]})
    first, second = in_pairs(left, right)
    assert list(first.index) == [1, 2] and list(second.index) == [0, 1]


def test_neither_tuning_nor_other_settings_nor_other_seeds_move_a_gain(tmp_path: Path) -> None:
    _runs(tmp_path, "adamw", {0: 0.90, 1: 0.91, 2: 0.92, 1000: 0.5, 7: 0.1})
    _runs(tmp_path, "spectral_newton", {0: 0.92, 1: 0.93, 2: 0.94, 1000: 0.2})
    _runs(tmp_path, "spectral_newton_alpha1", {0: 0.2, 1: 0.2, 2: 0.2})
    found = check(_gain(), load([str(tmp_path)]))
    assert found.ours == pytest.approx(0.02) and found.verdict == "holds"
    assert found.versus is not None and found.versus.runs == ("adamw0", "adamw1", "adamw2")


def test_a_map_of_settings_moves_no_gain(tmp_path: Path) -> None:
    _runs(tmp_path, "adamw", {0: 0.90, 1: 0.91, 2: 0.92, 3: 0.93})
    _runs(tmp_path, "spectral_newton", {0: 0.92, 1: 0.93, 2: 0.94, 3: 0.95})
    _runs(tmp_path, "spectral_newton", {3: 0.2}, "damped")
    found = check(_gain(), load([str(tmp_path)]))
    assert found.ours == pytest.approx(0.02) and found.estimate is not None
    assert found.estimate.runs == ("spectral_newton0", "spectral_newton1", "spectral_newton2")


def test_datasets_models_and_sweeps_are_kept_apart() -> None:
    left = pd.DataFrame({"dataset": ["d"], "model": ["m"], "sweep": ["a"], "seed": [0]})
    for name in ("dataset", "model", "sweep"):
        first, second = in_pairs(left, left.assign(**{name: "other"}))
        assert first.empty and second.empty


def test_without_common_seeds_there_is_no_comparison(tmp_path: Path) -> None:
    _runs(tmp_path, "adamw", {0: 0.90, 1: 0.91, 2: 0.92})
    _runs(tmp_path, "spectral_newton", {3: 0.92, 4: 0.93, 5: 0.94})
    found = check(_gain(), load([str(tmp_path)]))
    assert found.verdict == "not measured"
    assert found.reason == "no two runs, one a side, of the same dataset, model, sweep and seed"


def test_the_cost_of_a_step_is_the_optimizers_own() -> None:
    cost = next(claim for claim in load_claims() if claim.id == "spectral-newton-cost")
    assert cost.quantity is not None
    assert cost.quantity.column == "optimizer/seconds_per_step"


def test_a_side_without_runs_is_named(tmp_path: Path) -> None:
    _runs(tmp_path, "spectral_newton", dict.fromkeys(range(3), 0.9))
    reason = check(_gain(), load([str(tmp_path)])).reason
    assert reason == "no runs of model=resnet18, dataset=cifar10, optimizer=adamw"


def test_times_of_several_devices_are_not_compared(tmp_path: Path) -> None:
    (cost,) = (claim for claim in load_claims() if claim.id == "spectral-newton-cost")
    for optimizer in ("muon", "spectral_newton"):
        _runs(tmp_path, optimizer, dict.fromkeys(range(3), 0.9))
    found = load([str(tmp_path)])
    ours = found.runs["optimizer"] == "spectral_newton"
    seconds = ours.map({True: 1.8, False: 1.0})
    alike = found.runs.assign(**{"optimizer/seconds_per_step": seconds, "provenance.device": "A"})
    assert check(cost, replace(found, runs=alike)).ours == pytest.approx(1.8)
    mixed = alike.assign(**{"provenance.device": ours.map({True: "A", False: "B"})})
    judged = check(cost, replace(found, runs=mixed))
    assert judged.verdict == "not measured"
    assert "they ran on 2 device models (A, B)" in judged.reason


def test_a_cost_is_taken_over_pairs_that_had_their_device_alone(tmp_path: Path) -> None:
    (cost,) = (claim for claim in load_claims() if claim.id == "spectral-newton-cost")
    for optimizer in ("muon", "spectral_newton"):
        _runs(tmp_path, optimizer, dict.fromkeys(range(5), 0.9))
    found = load([str(tmp_path)])
    ours, seed = found.runs["optimizer"] == "spectral_newton", found.runs["seed"]
    # Seed 3 of Spectral Newton and seed 4 of Muon shared theirs, and took ten times as long.
    shared = (ours & (seed == 3)) | (~ours & (seed == 4))
    seconds = ours.map({True: 1.8, False: 1.0}) * shared.map({True: 10.0, False: 1.0})
    columns = {"optimizer/seconds_per_step": seconds, "provenance.device": "A"}
    packed = shared.map({True: 4.0, False: 1.0})
    mixed = found.runs.assign(**columns, **{"provenance.packed": packed})
    judged = check(cost, replace(found, runs=mixed))
    assert judged.ours == pytest.approx(1.8)
    assert judged.estimate is not None and len(judged.estimate.runs) == 3
    apart = mixed.assign(**{"provenance.packed": ours.map({True: 4.0, False: 1.0})})
    reason = check(cost, replace(found, runs=apart)).reason
    assert reason.endswith("seed; those that shared their device with others do not count")
