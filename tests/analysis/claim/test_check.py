"""Each test moves the data and sees the verdict move.

Runs by which optimizers are judged.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from measured_tables import directions, write_run

from analysis.claim.check import Result, check, in_pairs, reported
from analysis.claim.model import Claim, Range, load_claims
from analysis.page.claims import reason
from analysis.run.measured import Measured, load

LAYERS = [f"l{i}" for i in range(9)] + ["fc"]


def _claim(rule: dict[str, Any], nulls: tuple[str, ...] = (), **quantity: Any) -> Claim:
    return Claim.model_validate(
        {"id": "c", "source": "1", "statement": "s", "stated": "1", "rule": rule,
         "nulls": list(nulls), "quantity": {"column": "alpha", **quantity}}
    )  # fmt: skip


def _runs(root: Path, alpha: float, **options: Any) -> Measured:
    for seed in range(2):
        table = directions(dict.fromkeys(LAYERS, alpha), seed=seed)
        write_run(root, f"run{seed}", [table], seed=seed, **options)
    return load([str(root)])


NEAR_TWO = {"about": 2, "within": 0.1}


@pytest.mark.parametrize(("alpha", "verdict"), [(2.0, "holds"), (1.5, "fails"), (2.6, "fails")])
def test_the_verdict_follows_the_data(tmp_path: Path, alpha: float, verdict: str) -> None:
    result = check(_claim(NEAR_TWO, where={"layer_type": "conv"}), _runs(tmp_path, alpha))
    assert result.verdict == verdict and result.decided
    assert result.ours == pytest.approx(alpha, abs=0.05)
    assert result.interval.low < result.ours < result.interval.high
    assert result.estimate is not None
    assert (result.estimate.n, result.estimate.runs) == (18, ("run0", "run1"))
    assert result.estimate.data == ("resnet18/cifar10",)


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [("mean", 2.5), ("median", 2.0), ("sd", 3**0.5), ("min", 1), ("max", 5), ("share", 2.5)],
)
def test_each_statistic_is_what_its_name_says(
    tmp_path: Path, statistic: str, expected: float
) -> None:
    found = _runs(tmp_path, 2)
    layers = found.layers.iloc[:4].assign(alpha=[1.0, 2.0, 2.0, 5.0])
    moved = Measured(layers, found.directions, found.runs)
    result = check(_claim({"at_least": 0}, statistic=statistic), moved)
    assert result.ours == pytest.approx(expected)


def test_what_is_missing_gets_no_verdict(tmp_path: Path) -> None:
    found = _runs(tmp_path, 2)
    for claim, why in [
        (_claim(NEAR_TWO, column="chi_slope"), "no column 'chi_slope'"),
        (_claim(NEAR_TWO, where={"model": "vgg11"}), "no layers of model=vgg11 after training"),
        (_claim(NEAR_TWO, where={"dataset": "digits"}), "dataset=digits"),
        (_claim(NEAR_TWO, where={"config.lr": 1}), "no column 'config.lr'"),
        (_claim(NEAR_TWO, when="start"), "at epoch 0"),
        (_claim(NEAR_TWO, at_least=21), "20 usable values of alpha in layers; needs 21"),
        (_claim(NEAR_TWO, statistic="sd", where={"layer": "fc"}, at_least=3), "2 usable"),
        (_claim(NEAR_TWO, versus={"model": "vgg11"}), "model=vgg11"),
        (_claim(NEAR_TWO, table="runs", column="accuracy"), "no column 'accuracy'"),
    ]:
        result = check(claim, found)
        assert (result.verdict, result.estimate) == ("not measured", None)
        assert why in reason(result)
    empty = Measured(pd.DataFrame(), pd.DataFrame(), found.runs)
    assert reason(check(_claim(NEAR_TWO), empty)) == "no exponents were measured"
    unknown = Measured(found.layers.assign(alpha=np.nan), found.directions, found.runs)
    assert check(_claim(NEAR_TWO), unknown).verdict == "not measured"


@pytest.mark.parametrize("claim", load_claims(), ids=lambda claim: claim.id)
def test_no_claim_holds_without_data(claim: Claim, tmp_path: Path) -> None:
    write_run(tmp_path, "r", [])
    result = check(claim, load([str(tmp_path)]))
    assert result.verdict == "not measured" and reason(result)


def test_the_triangle_stands_beside_its_nulls_and_falls_when_h_is_shuffled(tmp_path: Path) -> None:
    nulls = ("null_noise_error", "null_other_error")
    claim = _claim({"at_most": 0.025}, nulls, column="identity_error")
    good = check(claim, _runs(tmp_path / "good", 2))
    assert good.verdict == "holds" and set(good.nulls) == set(nulls)
    noise, interval = good.nulls["null_noise_error"]
    assert 0 < interval.low <= noise <= interval.high < 0.05
    table = directions(dict.fromkeys(LAYERS, 2.0))
    rng = np.random.default_rng(0)
    table["h"] = table.groupby("layer")["h"].transform(lambda h: rng.permutation(h.to_numpy()))
    write_run(tmp_path / "bad", "run", [table])
    assert check(claim, load([str(tmp_path / "bad")])).verdict == "fails"


def test_setting_every_r2_to_zero_is_noticed(tmp_path: Path) -> None:
    claim = _claim({"at_least": 0.88}, column="alpha_r2", statistic="min")
    found = _runs(tmp_path, 2)
    assert check(claim, found).verdict == "holds"
    zero = Measured(found.layers.assign(alpha_r2=0.0), found.directions, found.runs)
    assert check(claim, zero).verdict == "fails"


def test_over_training_the_same_runs_are_compared(tmp_path: Path) -> None:
    claim = _claim({"at_least": 0.25}, versus={"when": "start"}, statistic="mean")
    for name, after in [("rises", 2.0), ("stays", 1.6)]:
        tables = [
            directions(dict.fromkeys(LAYERS, alpha), epoch=epoch)
            for alpha, epoch in [(1.5, 0.0), (after, 5.0)]
        ]
        write_run(tmp_path / name, "both", tables)
        # A run without its start must not shift the other side.
        write_run(tmp_path / name, "late", [directions(dict.fromkeys(LAYERS, 9.0))])
    rises, stays = (check(claim, load([str(tmp_path / name)])) for name in ("rises", "stays"))
    assert (rises.verdict, stays.verdict) == ("holds", "fails")
    assert rises.ours == pytest.approx(0.5, abs=0.05)
    assert rises.versus is not None and rises.versus.runs == ("both",)


def test_optimizers_are_compared_by_difference_and_ratio(tmp_path: Path) -> None:
    for optimizer, accuracy in [("adamw", 0.90), ("spectral_newton", 0.92)]:
        for seed in range(3):
            name = f"{optimizer}{seed}"
            reached = accuracy + seed / 1000
            write_run(tmp_path, name, [], optimizer=optimizer, seed=seed, accuracy=reached)
    sides = {"where": {"optimizer": "spectral*"}, "versus": {"optimizer": "adamw"}}
    about: dict[str, Any] = {"table": "runs", "column": "test/accuracy", "statistic": "mean"}
    found = load([str(tmp_path)])
    gain = check(_claim({"at_least": 0.01}, **about, **sides), found)
    assert gain.ours == pytest.approx(0.02) and gain.verdict == "holds"
    ratio = check(_claim({"at_least": 1.1}, **about, **sides, relation="ratio"), found)
    assert ratio.ours == pytest.approx(0.921 / 0.901) and ratio.verdict == "fails"


def test_other_data_tests_a_claim_elsewhere_but_never_data_against_itself(tmp_path: Path) -> None:
    found = _runs(tmp_path, 2, dataset="digits")
    claim = _claim(NEAR_TWO, where={"dataset": "cifar10"})
    assert check(claim, found).verdict == "not measured"
    assert check(claim, found, other_data=True).verdict == "holds"
    change = _claim({"at_most": 0}, where={"dataset": "cifar100"}, versus={"dataset": "cifar10"})
    assert check(change, found, other_data=True).verdict == "not measured"


def test_a_condition_may_be_a_range_of_numbers(tmp_path: Path) -> None:
    found = _runs(tmp_path, 2)
    layers = found.layers.assign(rows=[10, 200, 201] + [9] * (len(found.layers) - 3))
    moved = Measured(layers, found.directions, found.runs)
    within = _claim(NEAR_TWO, where={"rows": {"at_least": 10, "at_most": 200}}, at_least=1)
    result = check(within, moved)
    assert result.estimate is not None and result.estimate.n == 2  # its ends are within
    above = _claim(NEAR_TWO, where={"rows": {"at_least": 201}}, at_least=1)
    assert check(above, moved).estimate is not None
    none = _claim(NEAR_TWO, where={"rows": {"at_least": 202}}, at_least=1)
    assert "rows=at least 202" in reason(check(none, moved))


def test_a_range_has_an_end_and_the_lower_first() -> None:
    with pytest.raises(ValueError, match="give at_least, at_most or both"):
        Range()
    with pytest.raises(ValueError, match="at_least is above at_most"):
        Range(at_least=5, at_most=1)
    assert np.int64(3) in Range(at_most=3)
    assert np.float32(3.5) not in Range(at_least=1, at_most=3)
    assert "3" not in Range(at_most=3)
    words = [str(one) for one in (Range(at_most=3), Range(at_least=10, at_most=1e6))]
    assert words == ["at most 3", "10 to 1000000"]


def test_a_heads_classes_matter_on_other_data_too(tmp_path: Path) -> None:
    claim = next(one for one in load_claims() if one.id == "alpha-head-few-classes")
    found = _runs(tmp_path, 1.5, dataset="python_source")
    heads = found.layers["layer_type"] == "head"
    for classes, verdict in ((200, "holds"), (256, "not measured")):
        layers = found.layers.assign(rows=found.layers["rows"].where(~heads, classes))
        moved = Measured(layers, found.directions, found.runs)
        assert check(claim, moved, other_data=True).verdict == verdict


def test_an_interval_that_reaches_the_other_verdict_is_told(tmp_path: Path) -> None:
    found = _runs(tmp_path, 2)

    def judged(*values: float) -> Result:
        layers = found.layers.iloc[: len(values)].assign(alpha=values)
        moved = Measured(layers, found.directions, found.runs)
        return check(_claim({"between": [1.9, 2.1]}, statistic="mean"), moved)

    assert judged(2.0, 2.01, 1.99).decided
    assert not judged(1.7, 2.0, 2.3).decided
    assert not judged(1.2, 2.0, 3.4).decided  # outside, but it spans all that is accepted
    assert judged(3.0, 3.1, 2.9).decided


def test_a_share_has_an_interval_also_where_all_layers_agree(tmp_path: Path) -> None:
    claim = _claim({"at_least": 0.9}, column="alpha_near_two", statistic="share")
    result = check(claim, _runs(tmp_path, 2))
    assert (result.ours, result.interval.high) == (1, 1)
    assert result.interval.low == pytest.approx(0.025 ** (1 / 20))
    assert result.verdict == "holds" and not result.decided


def test_unreliable_layers_count_and_are_told(tmp_path: Path) -> None:
    found = _runs(tmp_path, 2)
    layers = found.layers.iloc[:4].assign(
        alpha=[2.0, 2.0, 2.0, 4.0], reliable=[True, True, True, False]
    )
    result = check(
        _claim(NEAR_TWO, statistic="mean"), Measured(layers, found.directions, found.runs)
    )
    assert result.ours == 2.5 and result.verdict == "fails"
    assert result.estimate is not None
    assert (result.estimate.unreliable, result.estimate.reliable) == (1, 2.0)


def test_an_interval_widens_where_runs_differ_and_not_layers_alone(tmp_path: Path) -> None:
    found = _runs(tmp_path, 2)
    rng = np.random.default_rng(0)

    def width(between: float, within: float) -> float:
        shift = found.layers["run"].map({"run0": -between, "run1": between})
        alpha = 2 + shift + within * rng.permutation(np.linspace(-1, 1, len(found.layers)))
        moved = Measured(found.layers.assign(alpha=alpha), found.directions, found.runs)
        result = check(_claim(NEAR_TWO, statistic="mean"), moved)
        return result.interval.high - result.interval.low

    assert width(0.5, 0.01) == pytest.approx(1.0, abs=0.05)  # both runs the same one: +-0.5
    # Of layers alone: 2 * 1.96 * sd / sqrt(20), sd = 0.5 * 0.607, and up to sqrt(2) times that,
    # for what differs between the runs by chance is drawn twice.
    assert 0.26 < width(0.0, 0.5) < 0.4


def test_runs_of_different_size_are_drawn_whole(tmp_path: Path) -> None:
    found = _runs(tmp_path, 2)
    layers = found.layers.iloc[[0, *range(10, 20)]]  # one layer of the first run, ten of the second
    moved = Measured(layers.assign(alpha=[1.0] + [2.0] * 10), found.directions, found.runs)
    result = check(_claim(NEAR_TWO, statistic="mean"), moved)
    assert (result.interval.low, result.interval.high) == (1.0, 2.0)
    assert result.ours == pytest.approx(21 / 11)


def _gain() -> Claim:
    return next(claim for claim in load_claims() if claim.id == "spectral-newton-gain")


def _runs_of_reported(
    root: Path, optimizer: str, accuracies: dict[int, float], name: str = ""
) -> None:
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
    _runs_of_reported(tmp_path, "adamw", {0: 0.90, 1: 0.91, 2: 0.92, 1000: 0.5, 7: 0.1})
    _runs_of_reported(tmp_path, "spectral_newton", {0: 0.92, 1: 0.93, 2: 0.94, 1000: 0.2})
    _runs_of_reported(tmp_path, "spectral_newton_alpha1", {0: 0.2, 1: 0.2, 2: 0.2})
    found = check(_gain(), load([str(tmp_path)]))
    assert found.ours == pytest.approx(0.02) and found.verdict == "holds"
    assert found.versus is not None and found.versus.runs == ("adamw0", "adamw1", "adamw2")


def test_a_map_of_settings_moves_no_gain(tmp_path: Path) -> None:
    _runs_of_reported(tmp_path, "adamw", {0: 0.90, 1: 0.91, 2: 0.92, 3: 0.93})
    _runs_of_reported(tmp_path, "spectral_newton", {0: 0.92, 1: 0.93, 2: 0.94, 3: 0.95})
    _runs_of_reported(tmp_path, "spectral_newton", {3: 0.2}, "damped")
    found = check(_gain(), load([str(tmp_path)]))
    assert found.ours == pytest.approx(0.02) and found.estimate is not None
    assert found.estimate.runs == ("spectral_newton0", "spectral_newton1", "spectral_newton2")


def test_datasets_models_and_sweeps_are_kept_apart() -> None:
    left = pd.DataFrame({"dataset": ["d"], "model": ["m"], "sweep": ["a"], "seed": [0]})
    for name in ("dataset", "model", "sweep"):
        first, second = in_pairs(left, left.assign(**{name: "other"}))
        assert first.empty and second.empty


def test_without_common_seeds_there_is_no_comparison(tmp_path: Path) -> None:
    _runs_of_reported(tmp_path, "adamw", {0: 0.90, 1: 0.91, 2: 0.92})
    _runs_of_reported(tmp_path, "spectral_newton", {3: 0.92, 4: 0.93, 5: 0.94})
    found = check(_gain(), load([str(tmp_path)]))
    assert found.verdict == "not measured"
    assert reason(found) == "no two runs, one a side, of the same dataset, model, sweep and seed"


def test_the_cost_of_a_step_is_the_optimizers_own() -> None:
    cost = next(claim for claim in load_claims() if claim.id == "spectral-newton-cost")
    assert cost.quantity is not None
    assert cost.quantity.column == "optimizer/seconds_per_step"


def test_a_side_without_runs_is_named(tmp_path: Path) -> None:
    _runs_of_reported(tmp_path, "spectral_newton", dict.fromkeys(range(3), 0.9))
    why = reason(check(_gain(), load([str(tmp_path)])))
    assert why == "no runs of model=resnet18, dataset=cifar10, optimizer=adamw"


def test_times_of_several_devices_are_not_compared(tmp_path: Path) -> None:
    (cost,) = (claim for claim in load_claims() if claim.id == "spectral-newton-cost")
    for optimizer in ("muon", "spectral_newton"):
        _runs_of_reported(tmp_path, optimizer, dict.fromkeys(range(3), 0.9))
    found = load([str(tmp_path)])
    ours = found.runs["optimizer"] == "spectral_newton"
    seconds = ours.map({True: 1.8, False: 1.0})
    alike = found.runs.assign(**{"optimizer/seconds_per_step": seconds, "provenance.device": "A"})
    assert check(cost, replace(found, runs=alike)).ours == pytest.approx(1.8)
    mixed = alike.assign(**{"provenance.device": ours.map({True: "A", False: "B"})})
    judged = check(cost, replace(found, runs=mixed))
    assert judged.verdict == "not measured"
    assert "they ran on 2 device models (A, B)" in reason(judged)


def test_a_cost_is_taken_over_pairs_that_had_their_device_alone(tmp_path: Path) -> None:
    (cost,) = (claim for claim in load_claims() if claim.id == "spectral-newton-cost")
    for optimizer in ("muon", "spectral_newton"):
        _runs_of_reported(tmp_path, optimizer, dict.fromkeys(range(5), 0.9))
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
    why = reason(check(cost, replace(found, runs=apart)))
    assert why.endswith("seed; those that shared their device with others do not count")
