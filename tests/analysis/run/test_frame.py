from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.run.frame import (
    FIXED,
    STATES,
    Filters,
    RunRecord,
    canonical,
    differences,
    frame,
    nearest,
)


def record(runs: Any, optimizer: str = "adamw", seed: int = 0, **changes: Any) -> RunRecord:
    config = runs.config(optimizer, seed, **changes)
    return RunRecord(config["id"], "done", config, runs.summary(0.5))


def test_columns_are_identity_then_config_then_summary(runs: Any) -> None:
    table = frame([record(runs)])
    assert tuple(table.columns[: len(FIXED)]) == FIXED
    rest = list(table.columns[len(FIXED) :])
    split = next(i for i, name in enumerate(rest) if not name.startswith("config."))
    assert rest[:split] == sorted(rest[:split])
    assert rest[split:] == sorted(rest[split:])
    row = table.iloc[0]
    assert row["id"] == "digits-convnet-adamw-s0-" + row["variant"]
    assert (row["dataset"], row["model"], row["optimizer"]) == ("digits", "convnet", "adamw")
    assert (row["state"], row["sweep"], row["seed"]) == ("done", None, 0)
    assert row["config.optimizer.lr"] == 1e-3
    assert row["config.dataset.shape"] == "[8, 8]"
    assert row["test/accuracy"] == 0.5
    assert not {"config.names.model", "config.id", "config.seed"} & set(table.columns)


def test_kinds_of_columns(runs: Any) -> None:
    table = frame([record(runs), record(runs, seed=1, optimizer__lr="auto", trainer__compile=True)])
    assert table["seed"].dtype == "Int64"
    assert table["parameters"].dtype == "float64"  # a whole number is a number all the same
    assert table["config.trainer.epochs"].dtype == "float64"
    assert table["config.trainer.compile"].dtype == "bool"
    assert table["config.optimizer.lr"].dtype == "object"
    assert set(table["config.optimizer.lr"]) == {1e-3, "auto"}
    assert "config.trainer.grad_clip" not in table  # null in every run


def test_rows_come_in_one_order(runs: Any) -> None:
    records = [record(runs, name, seed) for name in ("sgd", "adamw") for seed in (10, 9, 0)]
    tables = [frame(records), frame(records[::-1])]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["seed"].tolist() == [0, 9, 10, 0, 9, 10]
    assert tables[0]["optimizer"].tolist() == ["adamw"] * 3 + ["sgd"] * 3


def test_a_running_run_has_no_result_yet(runs: Any) -> None:
    config = runs.config()
    table = frame([record(runs, seed=1), RunRecord("r", "running", config, runs.summary(0.99))])
    running = table[table["state"] == "running"].iloc[0]
    assert math.isnan(running["test/accuracy"])


def test_a_summary_cannot_change_what_a_run_is(runs: Any) -> None:
    summary = {"state": "failed", "seed": 99, "optimizer": "sgd", "_step": 5, "x": 1}
    table = frame([RunRecord("r", "done", runs.config(), summary)])
    assert table.iloc[0][["id", "state", "seed", "optimizer"]].tolist() == ["r", "done", 0, "adamw"]
    assert list(table.columns[-1:]) == ["x"]
    assert "_step" not in table


def test_no_runs_and_runs_without_config() -> None:
    empty = frame([])
    assert tuple(empty.columns) == FIXED
    assert len(empty) == 0
    bare = frame([RunRecord("r", "unreadable")]).iloc[0]
    assert (bare["id"], bare["state"], bare["variant"]) == ("r", "unreadable", None)
    assert pd.isna(bare["seed"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2, 2.0),
        (True, True),
        (None, None),
        ("adamw", "adamw"),
        ("Infinity", math.inf),
        ("-Infinity", -math.inf),
        ((1, 2.0), "[1, 2]"),
        ([0.9, (1.0, {"b": 2.0, "a": None})], '[0.9, [1, {"a": null, "b": 2}]]'),
        (["é"], '["é"]'),
    ],
)
def test_one_spelling(value: Any, expected: Any) -> None:
    assert canonical(value) == expected
    assert type(canonical(value)) is type(expected)
    assert math.isnan(canonical("NaN"))  # type: ignore[arg-type]


leaves = (
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=4)
)
trees = st.dictionaries(
    st.text("abc", min_size=1, max_size=2),
    st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=5),
    max_size=4,
)


def respelt(value: Any) -> Any:
    """Return a value as W&B may give it back: whole floats as integers, tuples as lists."""
    if isinstance(value, dict):
        return {key: respelt(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [respelt(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


@given(trees)
@settings(max_examples=60, deadline=None)
def test_the_spelling_of_numbers_does_not_show(tree: dict[str, Any]) -> None:
    config = {"id": "r", "seed": 3, "optimizer": tree, "dataset": {"deep": tree}}
    ours = frame([RunRecord("r", "done", config, tree)])
    theirs = frame([RunRecord("r", "done", respelt(json.loads(json.dumps(config))), respelt(tree))])
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def test_nearest() -> None:
    assert nearest("test/acuracy", ["test/loss", "test/accuracy"]).endswith("'test/accuracy'")
    assert nearest("zzz", ["test/loss"]) == ""


def test_provenance_that_tables_need_has_columns_of_its_own(runs: Any) -> None:
    provenance = {"device": "H100", "git": {"commit": "f00", "dirty": False}, "platform": "x"}
    one = RunRecord("a", "done", runs.config(), {}, provenance)
    data = frame([one, RunRecord("b", "done", runs.config(seed=1), {})])
    found = {name: data[name].tolist() for name in data if name.startswith("provenance.")}
    assert found == {
        "provenance.device": ["H100", None],
        "provenance.git.commit": ["f00", None],
        "provenance.git.dirty": [False, None],
    }


DONE = RunRecord("a", "done", {"sweep": "grid", "tracker": {"tags": ["first", "x"]}})


@pytest.mark.parametrize(
    ("filters", "asked"),
    [
        (Filters(), {}),
        (Filters("grid"), {"group": "grid"}),
        (Filters(tags=("a", "b")), {"tags": {"$in": ["a", "b"]}}),
        (Filters(states=("done",)), {"summary_metrics.state": {"$in": ["diverged", "done"]}}),
        (
            Filters("grid", ("a",), ("failed",)),
            {
                "group": "grid",
                "tags": {"$in": ["a"]},
                "summary_metrics.state": {"$in": ["diverged", "done", "failed"]},
            },
        ),
        (Filters(states=("done", "running")), {}),
    ],
)
def test_what_a_server_is_asked(filters: Filters, asked: dict[str, Any]) -> None:
    assert filters.query() == asked


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        (Filters(), True),
        (Filters("grid", ("x", "y"), ("failed", "done")), True),
        (Filters("other"), False),
        (Filters(tags=("y",)), False),
        (Filters(states=("failed", "running")), False),
    ],
)
def test_which_runs_fit(filters: Filters, fits: bool) -> None:
    assert filters.fits(DONE) is fits


def test_a_run_without_a_config_has_no_tags_and_no_sweep() -> None:
    lost = RunRecord("a", "unreadable")
    assert Filters().fits(lost)
    assert Filters(states=("unreadable",)).fits(lost)
    assert not Filters("grid").fits(lost)
    assert not Filters(tags=("x",)).fits(lost)


def test_an_unknown_state_names_the_nearest_or_all() -> None:
    with pytest.raises(ValueError, match="unknown state 'failled'; the nearest is 'failed'"):
        Filters(states=("failled",))
    with pytest.raises(ValueError, match=f"unknown state 'xyz'; known: {', '.join(STATES)}"):
        Filters(states=("xyz",))


NAMES = ("runs", "wandb:lab/p")


def run(runs: Any, seed: int, state: str = "done", accuracy: float = 0.5) -> RunRecord:
    return RunRecord(f"r{seed}", state, runs.config(seed=seed), runs.summary(accuracy, state))


def test_what_only_one_has_and_what_they_tell_differently(runs: Any) -> None:
    ours = [run(runs, 0), run(runs, 1), run(runs, 2, "diverged"), run(runs, 3, accuracy=0.25)]
    theirs = [run(runs, 0), run(runs, 2, "running"), run(runs, 3), run(runs, 4, "failed")]
    found = differences(frame(ours), frame(theirs), names=NAMES, metric="test/accuracy")
    assert found == [
        "only in runs: r1 (done)",
        "only in wandb:lab/p: r4 (failed)",
        "r2: state diverged in runs, running in wandb:lab/p",
        "r2: test/accuracy 0.5 in runs, nan in wandb:lab/p",
        "r3: test/accuracy 0.25 in runs, 0.5 in wandb:lab/p",
    ]


@pytest.mark.parametrize("metric", ["test/accuracy", "unknown"])
def test_the_same_runs_differ_in_nothing(runs: Any, metric: str) -> None:
    same = frame([run(runs, 0), run(runs, 1, "running")])
    assert differences(same, same, names=NAMES, metric=metric) == []
