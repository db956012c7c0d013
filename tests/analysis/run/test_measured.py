"""Parquet tables with metadata: what comes back, and what a torn or foreign file does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hessian_tables import blocks, landscape, write
from measured_tables import directions, write_run

from analysis.measure.files import read_table, write_table
from analysis.run.frame import RunWarning
from analysis.run.measured import last_epochs, load, with_order

ALPHAS = {"a": 2.0, "b": 1.5, "c": 1.0}


def test_a_folder_of_runs_becomes_three_tables_that_name_their_runs(tmp_path: Path) -> None:
    write_run(tmp_path, "r0", [directions(ALPHAS, epoch=0), directions(ALPHAS, epoch=2)])
    write_run(tmp_path, "r1", [directions(ALPHAS)], model="vgg11", seed=1, width=128)
    write_run(tmp_path, "r2", [])
    found = load([str(tmp_path)])
    assert len(found.layers) == 9 and len(found.directions) == 180 and len(found.runs) == 3
    assert dict(found.layers.groupby("run")["model"].first()) == {"r0": "resnet18", "r1": "vgg11"}
    assert dict(found.layers.groupby("run")["config.model.width"].first()) == {"r0": 64, "r1": 128}
    assert list(found.layers["depth"]) == [0, 0.5, 1] * 3
    assert list(last_epochs(found.layers)["epoch"]) == [2, 2, 2, 5, 5, 5]


def test_files_by_themselves_are_read_and_missing_exponents_are_fitted(tmp_path: Path) -> None:
    tables = [directions(ALPHAS, epoch=0), directions(ALPHAS, epoch=2, seed=1)]
    bare = write_run(tmp_path, "bare", tables, exponents=False)
    whole = write_run(tmp_path, "whole", tables)
    from_directions = load([str(bare / "curvature.parquet")]).layers
    from_exponents = load([str(whole / "exponents.parquet")])
    pd.testing.assert_frame_equal(
        from_directions.drop(columns="run"), from_exponents.layers.drop(columns="run")
    )
    assert from_exponents.directions.empty


def test_a_file_without_a_run_is_named_after_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write_table(directions(ALPHAS), folder / "any.parquet", {})
    found = load([str(folder / "any.parquet")])
    assert set(found.layers["run"]) == {"mine"} and found.layers["model"].isna().all()
    monkeypatch.chdir(folder)
    assert set(load(["any.parquet"]).layers["run"]) == {"mine"}


def test_a_run_folder_is_a_source_and_hidden_folders_are_none(tmp_path: Path) -> None:
    for name in ("r0", "_r1", ".r2"):
        write_run(tmp_path, name, [directions(ALPHAS)])
    found = load([str(tmp_path)])
    assert list(found.runs["id"]) == ["r0"]
    alone = load([str(tmp_path / "r0")])
    pd.testing.assert_frame_equal(alone.layers, found.layers)
    named = [str(tmp_path / name) for name in ("r0", "_r1")]
    pd.testing.assert_frame_equal(load(named).layers, load(named[::-1]).layers)


@pytest.mark.parametrize("state", ["diverged", "failed", "running"])
def test_a_run_that_is_not_done_does_not_count(tmp_path: Path, state: str) -> None:
    write_run(tmp_path, "good", [directions(ALPHAS)])
    write_run(tmp_path, "bad", [directions(ALPHAS)], state=state)
    with pytest.warns(RunWarning, match=f"bad: the run is {state}"):
        found = load([str(tmp_path)])
    assert set(found.layers["run"]) == set(found.directions["run"]) == {"good"}
    assert list(found.runs["id"]) == ["good"]


def test_a_run_given_twice_counts_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "r0", [directions(ALPHAS)])
    with pytest.warns(RunWarning, match="a second file of run r0"):
        found = load([str(tmp_path), str(folder / "exponents.parquet")])
    assert len(found.layers) == 3


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        load([str(tmp_path / "none")])
    with pytest.raises(ValueError, match="nothing is measured"):
        load([str(tmp_path)])
    folder = write_run(tmp_path, "r0", [directions(ALPHAS)])
    stored = read_table(folder / "exponents.parquet")
    assert stored is not None
    write_table(stored[0].drop(columns="alpha"), folder / "exponents.parquet", {})
    with pytest.raises(ValueError, match=r"exponents\.parquet: none of exponents, curvature"):
        load([str(tmp_path)])
    (folder / "exponents.parquet").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"exponents\.parquet: none of exponents, curvature"):
        load([str(tmp_path)])


def test_kronecker_columns_of_class_errors_are_joined_where_they_were_measured(
    tmp_path: Path,
) -> None:
    tables = [directions(ALPHAS, epoch=0), directions(ALPHAS, epoch=2)]
    folder = write_run(tmp_path, "r0", tables)
    rows = [
        {"layer": layer, "errors": errors, "step": 20, "epoch": 2.0, "chi_slope": slope}
        for errors, shift in (("label", 5.0), ("class", 0.0))
        for layer, slope in zip(ALPHAS, [0.1 + shift, 0.2 + shift, 0.3 + shift], strict=True)
    ]
    write_table(pd.DataFrame(rows), folder / "kronecker_layers.parquet", {})
    layers = load([str(tmp_path)]).layers
    assert len(layers) == 6 and layers["chi_slope"][:3].isna().all()
    assert list(layers["chi_slope"][3:]) == [0.1, 0.2, 0.3] and list(layers["epoch"][3:]) == [2] * 3


def test_blocks_and_landscapes_are_read_beside_the_rest(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "r0", [directions(ALPHAS)], model="vit_micro")
    windows, points = landscape({0.0: 0.2, 1.0: 0.4})
    write(folder, hessian_blocks=blocks({}), landscape=windows, landscape_fits=points)
    found = load([str(tmp_path)])
    assert (len(found.layers), len(found.blocks), len(found.points)) == (3, 28, 2)
    assert len(found.windows) == len(windows)
    for table in (found.blocks, found.points, found.windows):
        assert set(table["run"]) == {"r0"} and set(table["model"]) == {"vit_micro"}
    assert found.blocks["place"].notna().sum() == 6
    alone = load([str(folder / "hessian_blocks.parquet")])
    assert len(alone.blocks) == 28 and alone.points.empty and alone.layers.empty


FRAME = pd.DataFrame(
    {"layer": ["conv1", "head"], "alpha": [1.5, float("nan")], "n": [3, 4], "ok": [True, False]}
)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    metadata = {"directions": 20, "dtype": "float32", "nested": {"a": [1, None]}}
    write_table(FRAME, path, metadata)
    stored = read_table(path)
    assert stored is not None
    pd.testing.assert_frame_equal(stored[0], FRAME)
    assert stored[1] == metadata
    assert b"spectral-bench" in pq.read_schema(path).metadata
    write_table(FRAME, path, {"directions": 5})
    again = read_table(path)
    assert again is not None
    assert again[1] == {"directions": 5}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.parquet"]


def test_unreadable_files_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    assert read_table(path) is None
    write_table(FRAME, path, {})
    path.write_bytes(path.read_bytes()[:-20])
    assert read_table(path) is None
    FRAME.to_parquet(path)  # another program's table
    assert read_table(path) is None


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_table(FRAME, path, {"version": 1})
    with pytest.raises(TypeError):
        write_table(FRAME, path, {"version": object()})
    blocked = tmp_path / "folder.parquet"
    blocked.mkdir()
    with pytest.raises(OSError, match="folder"):
        write_table(FRAME, blocked, {})
    stored = read_table(path)
    assert stored is not None
    assert stored[1] == {"version": 1}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder.parquet", "x.parquet"]


def ordered(size: dict[str, float]) -> pd.DataFrame:
    return with_order(blocks(size).assign(run="r")).set_index(["row", "col"])


def test_places_are_among_attention_and_mlp_weights_alone() -> None:
    found = ordered({"value": 4.0, "key": 3.0, "mlp_up": 0.5, "head": 100.0})
    assert found.loc[("value", "value"), "place"] == 1
    assert found.loc[("key", "key"), "place"] == 2
    assert found.loc[("mlp_up", "mlp_up"), "place"] == 6
    assert np.isnan(found.loc[("head", "head"), "place"])
    assert np.isnan(found.loc[("key", "value"), "place"])
    per_entry = found["frobenius_per_entry"]
    expected = per_entry[("key", "key")] / max(
        per_entry[(role, role)] for role in ("query", "mlp_up", "mlp_down")
    )
    assert found.loc[("value", "value"), "key_value_excess"] == pytest.approx(expected)
    assert found["key_value_excess"].notna().sum() == 1


def test_each_run_and_step_has_its_own_order() -> None:
    tables = [
        blocks({"value": 3.0}, epoch=epoch).assign(run=run) if epoch else
        blocks({"query": 3.0}, epoch=0.0).assign(run=run)
        for run in "ab" for epoch in (0.0, 5.0)
    ]  # fmt: skip
    found = with_order(pd.concat(tables, ignore_index=True))
    first = found[found["place"] == 1]
    assert list(zip(first["run"], first["epoch"], first["row"], strict=True)) == [
        ("a", 0, "query"), ("a", 5, "value"), ("b", 0, "query"), ("b", 5, "value"),
    ]  # fmt: skip


def test_by_parameter_or_without_attention_there_is_no_order() -> None:
    table = blocks({}).assign(run="r")
    assert with_order(table.assign(level="parameter"))["place"].isna().all()
    some = table[~table["row"].isin(["mlp_up"]) & ~table["col"].isin(["mlp_up"])]
    assert with_order(some)["key_value_excess"].isna().all()
    assert with_order(pd.DataFrame()).empty
