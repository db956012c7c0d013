"""An archive gives the very runs that the folder gives, in the same bytes whatever the order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from measured_tables import directions, write_run

from analysis import report, tables
from analysis.archive import main
from analysis.run import archive as run_archive
from analysis.run.archive import Files
from analysis.run.frame import RunWarning
from analysis.run.measured import load
from analysis.runs import load_history, load_runs
from bench.errors import UserError


@pytest.fixture
def folder(runs: Any, tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for index, name in enumerate(["adamw", "sgd"]):
        for seed, state in enumerate(["done", "diverged", "done", "running"]):
            config = runs.config(name, seed, sweep="grid" if seed else None)
            summary = None if state == "running" else runs.summary(0.9 + index / 50, state)
            made = runs.folder(root, config, summary, state, runs.history(3 + seed))
            status = {"state": state, "cause": None, "pid": 7, "host": "here", "tracked": ["x"]}
            (made / "status.json").write_text(json.dumps(status))
            if seed:
                (made / "provenance.json").write_text('{"attempts": [{"device": "A"}]}')
            (made / "checkpoint.pt").write_bytes(b"big")
            (made / "log.txt").write_text("words")
    return root


def pack(folder: Path, path: Path) -> Path:
    run_archive.write(path, run_archive.gather(folder))
    return path


def test_the_archive_gives_the_folders_rows(folder: Path, tmp_path: Path) -> None:
    archive = pack(folder, tmp_path / "all.parquet")
    pd.testing.assert_frame_equal(load_runs(archive), load_runs(folder))
    for run_id in load_runs(folder)["id"]:
        pd.testing.assert_frame_equal(load_history(archive, run_id), load_history(folder, run_id))
    pd.testing.assert_frame_equal(load_runs(archive, sweep="grid"), load_runs(folder, sweep="grid"))


def test_tables_and_report_are_equal_to_the_byte(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = pack(folder, tmp_path / "all.parquet")
    for form in ("markdown", "csv"):
        told = []
        for source in (folder, archive):
            tables.main([f"source={source}", f"format={form}", "baseline=sgd", "ids=true"])
            told.append(capsys.readouterr().out)
        assert told[0] == told[1]
        assert "adamw" in told[0]
    pages = []
    for source in (folder, archive):
        report.main([f"source={source}", "baseline=sgd", f"out={tmp_path / 'page.html'}"])
        pages.append((tmp_path / "page.html").read_bytes())
    assert pages[0] == pages[1]
    assert b"<svg" in pages[0]


def test_what_is_kept_and_what_stays_behind(folder: Path, tmp_path: Path) -> None:
    table = pq.read_table(pack(folder, tmp_path / "all.parquet"))
    assert table.column_names == [
        "id", "config.json", "history.jsonl", "provenance.json", "status.json", "summary.json"
    ]  # fmt: skip
    assert {str(table.schema.field(name).type) for name in table.column_names} == {"string"}
    assert table["id"].to_pylist() == sorted(path.name for path in folder.iterdir())
    status = json.loads(table["status.json"][0].as_py())
    assert status == {"state": "done", "cause": None, "tracked": ["x"]}
    assert table["summary.json"].null_count == 2


def test_where_a_run_had_its_folders_stays_behind(runs: Any, tmp_path: Path) -> None:
    places = {
        "runs_dir": "/home/ada/project/runs", "data_dir": "/data",
        "exponents": "/home/ada/project/runs/one-s1999-0/exponents.parquet",
    }  # fmt: skip
    near = {"runs_dir": "runs", "data_dir": "../data", "exponents": None}
    for seed, told in enumerate((places, near)):
        runs.folder(tmp_path / "runs", {**runs.config(seed=seed), **told}, runs.summary(0.9))
    table = pq.read_table(pack(tmp_path / "runs", tmp_path / "all.parquet"))
    far, close = map(json.loads, table["config.json"].to_pylist())
    kept = {"runs_dir": "runs", "data_dir": "data", "exponents": "one-s1999-0/exponents.parquet"}
    assert {name: far[name] for name in places} == kept
    assert {name: close[name] for name in places} == near
    assert {**far, **near, "id": 0, "seed": 1} == {**close, "id": 0}


def test_an_optimizers_own_file_is_told_without_the_machines_folders(
    runs: Any, tmp_path: Path
) -> None:
    config = runs.config(seed=0)
    config["optimizer"] = {
        **config["optimizer"],
        "exponents": "/home/ada/runs/one/exponents.parquet",
        "matrix": {"exponents": "near/exponents.parquet", "lr": 0.1},
    }
    runs.folder(tmp_path / "runs", config, runs.summary(0.9))
    table = pq.read_table(pack(tmp_path / "runs", tmp_path / "all.parquet"))
    (found,) = map(json.loads, table["config.json"].to_pylist())
    assert found["optimizer"]["exponents"] == "one/exponents.parquet"
    assert found["optimizer"]["matrix"] == config["optimizer"]["matrix"]


def test_the_same_runs_give_the_same_bytes_in_any_order(folder: Path, tmp_path: Path) -> None:
    runs = run_archive.gather(folder)
    halves = dict(list(runs.items())[:3]), dict(list(runs.items())[3:])
    run_archive.write(tmp_path / "whole.parquet", runs)
    for first, second in (halves, halves[::-1]):
        run_archive.write(tmp_path / "half.parquet", first)
        again = run_archive.merged(run_archive.read(tmp_path / "half.parquet"), second)
        run_archive.write(tmp_path / "again.parquet", again)
        whole = (tmp_path / "whole.parquet").read_bytes()
        assert (tmp_path / "again.parquet").read_bytes() == whole


def test_many_runs_take_little_room(runs: Any, tmp_path: Path) -> None:
    for seed in range(60):
        rows = [
            {"step": i, "epoch": i / 98, "train/loss": 1 / (i + seed + 1), "lr": 0.1 / (i + 1)}
            for i in range(0, 3000, 50)
        ]
        runs.folder(tmp_path / "runs", runs.config(seed=seed), runs.summary(0.9), history=rows)
    archive = pack(tmp_path / "runs", tmp_path / "all.parquet")
    assert archive.stat().st_size < 60 * 2500


def test_measured_tables_come_along(tmp_path: Path) -> None:
    for seed in (0, 1):
        measured = directions({"conv": 1.5, "head": 1.0}, seed=seed)
        write_run(tmp_path / "runs", f"run{seed}", [measured], seed=seed)
    archive = pack(tmp_path / "runs", tmp_path / "all.parquet")
    ours, theirs = load([str(archive)]), load([str(tmp_path / "runs")])
    pd.testing.assert_frame_equal(ours.layers, theirs.layers)
    pd.testing.assert_frame_equal(ours.directions, theirs.directions)
    assert len(ours.layers) > 0


def files(state: str = "done", **changed: str) -> Files:
    texts = {"config": '{"sweep": "a"}', "summary": "{}", "history": "[]", **changed}
    made = {f"{name}.json": text.encode() for name, text in texts.items()}
    return {**made, "status.json": json.dumps({"state": state, "updated": len(changed)}).encode()}


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_finished_run_replaces_an_unfinished_one_and_not_the_reverse(state: str) -> None:
    unfinished, done = files(state, summary='{"a": 1}'), files("diverged")
    for old, new in ((unfinished, done), (done, unfinished)):
        assert run_archive.merged({"x": old}, {"x": new}) == {"x": done}
        assert run_archive.conflicts({"x": old}, {"x": new}) == {}
    newer = files(state, summary='{"a": 2}')
    assert run_archive.merged({"x": unfinished}, {"x": newer}) == {"x": newer}


def test_two_results_of_one_run_are_a_conflict() -> None:
    old, new = files(), files(summary='{"a": 1}')
    assert run_archive.conflicts({"x": old, "y": old}, {"x": new, "z": new}) == {
        "x": "summary.json"
    }
    assert run_archive.merged({"x": old}, {"x": new}) == {"x": new}


def test_what_was_measured_later_is_added_and_nothing_is_lost() -> None:
    old, new = {**files(), "a.parquet": b"1", "b.parquet": b"1"}, {**files(), "b.parquet": b"2"}
    assert run_archive.conflicts({"x": old}, {"x": new}) == {}
    whole = run_archive.merged({"x": old}, {"x": new})
    assert whole == {"x": {**files(), "a.parquet": b"1", "b.parquet": b"2"}}


def test_several_archives_and_a_folder_of_them(folder: Path, tmp_path: Path) -> None:
    runs = run_archive.gather(folder)
    (tmp_path / "results").mkdir()
    names = [tmp_path / "results" / name for name in ("a.parquet", "b.parquet")]
    run_archive.write(names[0], dict(list(runs.items())[:5]))
    run_archive.write(names[1], dict(list(runs.items())[4:]))  # one run is in both
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "results" / "other.parquet")
    whole = load_runs(folder)
    pd.testing.assert_frame_equal(load_runs(tmp_path / "results"), whole)
    pd.testing.assert_frame_equal(load_runs(f"{names[0]},{names[1]}"), whole)
    pd.testing.assert_frame_equal(load_runs(f"{tmp_path / 'results'},{names[1]}"), whole)
    run_id = next(iter(runs))
    changed = {**runs[run_id], "summary.json": b'{"a": 1}'}
    run_archive.write(names[1], {run_id: changed})
    with pytest.raises(ValueError, match=rf"b.parquet: another result of {run_id} .*summary.json"):
        load_runs(tmp_path / "results")
    with pytest.raises(ValueError, match="several sources must all be archives"):
        load_runs(f"{names[0]},{folder}")


def test_an_archive_that_was_added_to_is_read_again(folder: Path, tmp_path: Path) -> None:
    archive, runs = tmp_path / "a.parquet", run_archive.gather(folder)
    run_archive.write(archive, dict(list(runs.items())[:2]))
    assert len(load_runs(archive)) == 2
    run_archive.write(archive, runs)
    assert len(load_runs(archive)) == 8


def test_what_is_no_archive(folder: Path, tmp_path: Path) -> None:
    other, torn = tmp_path / "other.parquet", pack(folder, tmp_path / "torn.parquet")
    pd.DataFrame({"id": ["x"]}).to_parquet(other)
    whole = torn.read_bytes()
    for path in (other, torn):
        torn.write_bytes(whole[:-30])
        with pytest.raises(ValueError, match=r"no archive of runs; spectral-bench archive"):
            load_runs(path)
        with pytest.raises(ValueError, match=r"no archive of runs; spectral-bench archive"):
            run_archive.read(path)
    torn.write_bytes(whole[:50] + bytes(100) + whole[150:])
    with pytest.raises(ValueError, match=r"torn.parquet: damaged .*restore it"):
        load_runs(torn)
    with pytest.raises(ValueError, match="no such folder of runs"):
        load_runs(tmp_path / "none.parquet")


def test_no_archive_writes_outside_its_folder(tmp_path: Path) -> None:
    run_archive.write(tmp_path / "a.parquet", {"../x": files()})
    with pytest.raises(ValueError, match=r"'../x' is no name"):
        load_runs(tmp_path / "a.parquet")
    run_archive.write(tmp_path / "a.parquet", {"x": {**files(), "../y.json": b"{}"}})
    with pytest.raises(ValueError, match=r"'../y.json' is no name"):
        load_runs(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "name", ["..", ".", "", ".launches", "/x", "a/b", "a\0b", "a\nb", "\x1b[2J"]
)
def test_an_archive_whose_names_lead_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    run_archive.write(tmp_path / "a.parquet", {name: files(), "x": files()})
    into = tmp_path / "into"
    with pytest.raises(UserError, match="is no name of a file; restore the archive"):
        main(["unpack", str(tmp_path / "a.parquet"), f"into={into}"])
    assert not into.exists()


def test_damaged_runs_are_left_out_and_told(folder: Path, runs: Any) -> None:
    first, second = sorted(folder.iterdir())[:2]
    (first / "summary.json").write_text("{")
    with pytest.warns(RunWarning, match="not whole JSON"):
        assert len(run_archive.gather(folder)) == 7
    shutil.rmtree(first)
    (second / "history.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"history.jsonl: not UTF-8"):
        run_archive.gather(folder)


def test_a_foreign_schema_is_no_archive(tmp_path: Path) -> None:
    table = pa.table({"id": ["x"]}).replace_schema_metadata({b"spectral-bench": b'{"kind": "t"}'})
    pq.write_table(table, tmp_path / "x.parquet")
    assert not run_archive.is_archive(tmp_path / "x.parquet")
    assert run_archive.archives(str(tmp_path)) == []
