from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.table import model as table_rows
from analysis.table.model import assign_rows, in_percent, order, possible, text


def test_a_band_stays_within_what_the_metric_can_be() -> None:
    ends = np.array([[-3.0, 104.0], [20.0, math.nan]])
    expected = {
        "test/accuracy": [[0.0, 100.0], [20.0, math.nan]],
        "val/loss": [[0.0, 104.0], [20.0, math.nan]],
        "parameters": [[-3.0, 104.0], [20.0, math.nan]],
    }
    for metric, cut in expected.items():
        np.testing.assert_array_equal(possible(metric, ends), cut)
    assert in_percent("best/test_accuracy") and not in_percent("val/loss")


COLS = ("dataset", "model")


def run(variant: str, optimizer: str = "adamw", seed: int = 0, **values: Any) -> dict[str, Any]:
    """Return one row of the runs' frame; ``trainer__epochs=30`` is config.trainer.epochs."""
    names = {"dataset": "digits", "model": "convnet", "schedule": "cosine", "trainer": "default"}
    config = {"config.optimizer.lr": 0.001, "config.trainer.epochs": 20.0, "config.runs_dir": "r"}
    config |= {"config.trainer.device": "cpu", "config.tracker.mode": "offline"}
    for key, value in values.items():
        target = config if "__" in key or key in ("runs_dir", "data_dir", "exponents") else names
        target[("config." if target is config else "") + key.replace("__", ".")] = value
    return {"variant": variant, "optimizer": optimizer, "seed": seed, **names, **config}


def labels(*runs: dict[str, Any], rows: tuple[str, ...] = ("optimizer",), cols: Any = COLS) -> Any:
    keys = {key for run in runs for key in run}
    whole = [dict.fromkeys(keys) | run for run in runs]
    found, named = assign_rows(whole, rows, cols)
    return [named[key] for key in found], list(named.values())


def test_one_variant_a_column_is_named_by_its_optimizer_alone() -> None:
    runs = [
        run("a", seed=0),
        run("a", seed=1),
        run("b", "muon", optimizer__lr=0.02),
        run("c", dataset="cifar10", model="resnet18", trainer__epochs=30.0, optimizer__lr=0.1),
    ]
    each, rows = labels(*runs)
    assert each == ["adamw", "adamw", "muon", "adamw"]
    assert rows == ["adamw", "muon"]


def test_a_grid_gives_a_row_a_value_in_the_order_of_the_values() -> None:
    grid = [run(f"v{lr}", optimizer__lr=lr) for lr in (0.1, 0.01, 1e-5, 1.0)]
    each, rows = labels(*grid, run("s", "sgd"))
    assert rows == ["adamw lr=1e-05", "adamw lr=0.01", "adamw lr=0.1", "adamw lr=1", "sgd"]
    assert each == ["adamw lr=0.1", "adamw lr=0.01", "adamw lr=1e-05", "adamw lr=1", "sgd"]


def test_differences_in_other_groups_are_labelled_too() -> None:
    _, rows = labels(run("a"), run("b", trainer__epochs=30.0))
    assert rows == ["adamw trainer.epochs=20", "adamw trainer.epochs=30"]
    _, rows = labels(run("a"), run("b", schedule="constant"))
    assert rows == ["adamw schedule=constant", "adamw schedule=cosine"]
    _, rows = labels(run("a"), run("b", optimizer__lr=0.01, trainer__epochs=30.0))
    assert rows == ["adamw lr=0.001 trainer.epochs=20", "adamw lr=0.01 trainer.epochs=30"]


def test_inside_a_group_only_runs_of_the_same_choice_are_compared() -> None:
    cosine = run("a", schedule__warmup=0.1)
    constant = run("b", schedule="constant", schedule__warmup=None)
    _, rows = labels(cosine, constant)
    assert rows == ["adamw schedule=constant", "adamw schedule=cosine"]
    _, rows = labels(cosine, constant, run("c", schedule__warmup=0.2))
    assert rows == [
        "adamw schedule=constant schedule.warmup=null",
        "adamw schedule=cosine schedule.warmup=0.1",
        "adamw schedule=cosine schedule.warmup=0.2",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"trainer__device": "cuda"},
        {"trainer__log_every": 5.0},
        {"trainer__progress": "bar"},
        {"trainer__checkpoint_every": 7.0},
        {"trainer__evaluate_every": 7.0},
        {"trainer__evaluate_samples": 7.0},
        {"trainer__checkpoint_seconds": 0.0},
        {"tracker__mode": "online"},
        {"runs_dir": "elsewhere"},
        {"data_dir": "elsewhere"},
        {"exponents": "file"},
    ],
)
def test_where_and_how_a_run_was_carried_out_is_no_label(change: dict[str, Any]) -> None:
    _, rows = labels(run("a"), run("b", optimizer__lr=0.01, **change))
    assert rows == ["adamw lr=0.001", "adamw lr=0.01"]


def test_what_differs_between_seeds_of_one_variant_is_no_label() -> None:
    _, rows = labels(
        run("a", seed=0, dataset__split_seed=0.0, trainer="debug"),
        run("a", seed=1, dataset__split_seed=1.0),
        run("b", seed=1, dataset__split_seed=1.0, optimizer__lr=0.01),
    )
    assert rows == ["adamw lr=0.001", "adamw lr=0.01"]


def test_a_difference_that_the_config_does_not_show_is_still_a_row() -> None:
    """A measured file's content is in the variant, not in the config: never averaged together."""
    each, rows = labels(run("aa"), run("bb"), run("cc", optimizer__lr=0.01))
    assert each == ["adamw lr=0.001 variant=aa", "adamw lr=0.001 variant=bb", "adamw lr=0.01"]
    assert rows == each


def test_a_grid_in_one_column_splits_the_others_too() -> None:
    each, rows = labels(
        run("a", optimizer__lr=0.1), run("b"), run("c", dataset="cifar10"), run("d", "sgd")
    )
    assert each == ["adamw lr=0.1", "adamw lr=0.001", "adamw lr=0.001", "sgd"]
    assert rows == ["adamw lr=0.001", "adamw lr=0.1", "sgd"]


def test_what_is_not_a_column_is_told_apart_in_the_rows() -> None:
    runs = [run("a"), run("b", model="mlp", model__width=64.0)]
    assert labels(*runs)[1] == ["adamw"]
    assert labels(*runs, cols=("dataset",))[1] == ["adamw model=convnet", "adamw model=mlp"]
    rows = labels(*runs, run("c", "sgd"), rows=("schedule",), cols=("dataset",))[1]
    assert "cosine model=convnet optimizer=sgd" in rows
    rows = labels(run("a"), run("b", optimizer__lr=0.1), rows=("schedule",))[1]
    assert rows == ["cosine optimizer.lr=0.001", "cosine optimizer.lr=0.1"]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_two_variants_of_one_column_never_share_a_row(data: st.DataObject) -> None:
    choice = {
        "optimizer": st.sampled_from(["adamw", "sgd"]),
        "dataset": st.sampled_from(["digits", "cifar10"]),
        "schedule": st.sampled_from(["cosine", "linear"]),
        "optimizer__lr": st.sampled_from([None, 0.1, 1.0, "auto"]),
        "trainer__epochs": st.sampled_from([10.0, 20.0]),
        "trainer__device": st.sampled_from(["cpu", "cuda"]),
    }
    drawn = data.draw(st.lists(st.fixed_dictionaries(choice), min_size=1, max_size=8))
    runs = [run(f"v{i}", seed=s, **what) for i, what in enumerate(drawn) for s in (0, 1)]
    found, named = assign_rows(runs, ("optimizer",), COLS)
    variants: dict[Any, set[str]] = {}
    for one, key in zip(runs, found, strict=True):
        variants.setdefault((key, one["dataset"], one["model"]), set()).add(one["variant"])
        assert named[key].split()[0] == one["optimizer"]
    assert all(len(members) == 1 for members in variants.values())
    both = {one["variant"]: key for one, key in zip(runs, found, strict=True)}
    assert [both[one["variant"]] for one in runs] == found  # seeds of one variant stay together
    shuffled = list(runs)
    random.Random(0).shuffle(shuffled)
    assert assign_rows(shuffled, ("optimizer",), COLS)[1] == named


def test_values_are_shown_as_they_are_typed() -> None:
    assert [text(v) for v in (20.0, 0.1, 1e-5, True, None, "a")] == [
        "20", "0.1", "1e-05", "true", "null", "a",
    ]  # fmt: skip
    assert sorted([10.0, "b", None, 9.0, "a", True], key=order) == [None, True, 9.0, 10.0, "a", "b"]


def test_what_is_not_scientific_is_what_a_runs_identity_leaves_out() -> None:
    identity = pytest.importorskip("bench.identity")
    ours = {*table_rows.NOT_SCIENTIFIC, "names", "sweep"}
    assert ours == set(identity.NOT_SCIENTIFIC)
    assert set(table_rows.NOT_SCIENTIFIC_TRAINER) == set(identity.NOT_SCIENTIFIC_TRAINER)
    assert set(table_rows.NOT_SCIENTIFIC_OPTIMIZER) == set(identity.NOT_SCIENTIFIC_OPTIMIZER)
    assert set(table_rows.NOT_SCIENTIFIC_DATASET) == set(identity.NOT_SCIENTIFIC_DATASET)


def test_how_a_run_was_carried_out_tells_no_rows_apart() -> None:
    keys = ("trainer.compile", "trainer.curvature.samples", "optimizer.fused",
            "optimizer.hidden.compile", "dataset.workers", "tracker.mode")  # fmt: skip
    assert not any(table_rows._scientific(f"config.{key}") for key in keys)
    science = ("trainer.epochs", "optimizer.lr", "dataset.augment", "model.width")
    assert all(table_rows._scientific(f"config.{key}") for key in science)
