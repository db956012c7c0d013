"""Runs of earlier launches, from folders and archives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import config, files, train
from bench.past_runs import past_runs

from .conftest import QUICK

ARCHIVES = files.home() / "results"


def test_a_run_folder_gives_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(past_runs(Path("runs"))) == []
    train.train(config.load([*QUICK, "sweep=x", "seed=3"]))
    Path("runs/_other").mkdir()
    (run,) = past_runs(Path("runs"))
    folder = Path("runs", run.id)
    assert run.config == json.loads((folder / "config.json").read_text())
    assert run.summary == json.loads((folder / "summary.json").read_text())
    attempts = json.loads((folder / "provenance.json").read_text())["attempts"]
    assert run.started == attempts[0]["started"]
    assert run.finished
    assert run.reports("x")
    assert not run.reports("y")


def test_a_run_without_provenance_or_status_is_there_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").write_text('{"sweep": "x", "seed": 1000}')
    (run,) = past_runs(tmp_path, tmp_path / "none")
    assert (run.started, run.finished, run.reports("x")) == (None, False, False)


def test_archives_anywhere_below_and_each_run_once(tmp_path: Path) -> None:
    """The stored one of a run, as its folder has it, and once beside an archive that holds it."""
    from analysis.run.archive import read, write_folder

    archive = ARCHIVES / "study_a_small.parquet"
    (tmp_path / "results" / "deeper").mkdir(parents=True)
    for place in ("a.parquet", "deeper/b.parquet"):
        (tmp_path / "results" / place).symlink_to(archive)
    (tmp_path / "results" / "broken.parquet").write_bytes(b"PAR1 and no more")
    whole = read(archive)
    first = min(whole)
    write_folder(tmp_path / "runs" / first, whole[first])
    found = list(past_runs(tmp_path / "runs", tmp_path / "results"))
    assert sorted(run.id for run in found) == sorted(whole)
    for run in found:
        files_of = whole[run.id]
        assert run.summary == json.loads(files_of["summary.json"])
        assert run.started == json.loads(files_of["provenance.json"])["attempts"][0]["started"]


def test_other_parquet_files_hold_no_runs(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"layer": ["a"], "alpha": [1.0]})
    pyarrow.parquet.write_table(table, tmp_path / "exponents.parquet")
    assert list(past_runs(tmp_path / "runs", tmp_path)) == []
