from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pytest

from analysis.run import cache, folders
from analysis.run import cache as cache_files
from analysis.run import frame as run_frame
from analysis.run.cache import RunCache, ServerRun, cache_folder
from analysis.run.frame import RunRecord, RunWarning
from analysis.runs import load_runs

TOLD = {
    "b": ServerRun(
        "b", "2026 finished 5", {"id": "b", "lr": 0.1, "betas": [0.9, 0.99]}, {"x": "NaN"}
    ),
    "a": ServerRun("a", "2025 running 1", {}, {}),
}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    cache = RunCache("lab/p", tmp_path)
    assert cache.read() == {}
    cache.write(TOLD)
    assert cache.read() == TOLD
    assert cache.stamps() == {"b": "2026 finished 5", "a": "2025 running 1"}
    cache.write({"a": TOLD["a"]})
    assert list(cache.read()) == ["a"]
    assert [path.name for path in cache.path.parent.iterdir()] == [cache.path.name]


def test_projects_and_servers_do_not_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {RunCache(name, tmp_path).path for name in ("lab/p", "lab/p-", "la/bp")}
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org/")
    paths.add(RunCache("lab/p", tmp_path).path)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    paths.add(RunCache("lab/p", tmp_path).path)
    assert len(paths) == 4


@pytest.mark.parametrize("content", [b"", b"PAR1 torn", b"x" * 1000])
def test_a_torn_cache_is_no_cache(content: bytes, tmp_path: Path) -> None:
    cache = RunCache("lab/p", tmp_path)
    cache.write(TOLD)
    cache.path.write_bytes(content)
    assert cache.read() == cache.stamps() == {}


def test_a_cache_without_one_of_its_columns_is_no_cache(tmp_path: Path) -> None:
    cache = RunCache("lab/p", tmp_path)
    cache_files.write(cache.path, pyarrow.table({"id": ["a"], "stamp": ["1"]}))
    assert cache.read() == {}
    assert cache.stamps() == {"a": "1"}


def test_a_place_that_cannot_be_written_costs_only_the_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = RunCache("lab/p", tmp_path / "file")
    cache.write(TOLD)
    assert cache.read() == {}


def test_the_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "spectral-bench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cache_folder() == tmp_path / "me" / ".cache" / "spectral-bench"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "FEWEST", 0)
    return tmp_path / "cache" / "spectral-bench" / "frames"


def odd() -> pd.DataFrame:
    """A frame with every kind of column: numbers, gaps, flags, text, and mixtures."""
    summaries: list[dict[str, Any]] = [
        {"a": 1.5, "flag": True, "some": True, "text": "é|x", "mixed": "auto"},
        {"a": math.nan, "flag": False, "mixed": 2.0, "huge": 1e300, "list": [1, 2.5]},
        {"a": math.inf, "flag": True, "mixed": False, "text": "", "tiny": 5e-324},
        {"flag": False, "mixed": math.nan},
    ]
    return run_frame.frame(
        RunRecord(f"r{i}", "done", {"seed": None if i == 3 else i, "sweep": "s"}, summary)
        for i, summary in enumerate(summaries)
    )


class Made:
    """Counts how often a frame is made."""

    def __init__(self, make: Callable[[], pd.DataFrame] = odd) -> None:
        self.make, self.times = make, 0

    def __call__(self) -> pd.DataFrame:
        self.times += 1
        return self.make()


def test_the_second_frame_is_the_first_to_the_last_bit(folder: Path) -> None:
    made = Made()
    first = cache.kept("runs", ["a 1"], made)
    again = cache.kept("runs", ["a 1"], made)
    assert made.times == 1
    pd.testing.assert_frame_equal(first, odd(), check_exact=True)
    pd.testing.assert_frame_equal(again, first, check_exact=True)
    for name in first:
        kinds = [[type(value) for value in frame[name].tolist()] for frame in (first, again)]
        assert kinds[0] == kinds[1], name
    assert first.to_csv() == again.to_csv()
    assert len(list(folder.iterdir())) == 1


def test_a_change_of_any_run_or_of_the_code_makes_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made()
    for stamps in (["a 1", "b 1"], ["a 1", "b 2"], ["a 1"], ["a 1", "b 2"]):
        cache.kept("runs", stamps, made)
    assert made.times == 4
    monkeypatch.setattr(cache, "_code", lambda: "other code")
    cache.kept("runs", ["a 1", "b 2"], made)
    assert made.times == 5


def test_the_code_that_counts_is_all_that_makes_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in Path(cache.__file__).parent.glob("*.py"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    code = [cache._code.__wrapped__()]
    for name in ("cache", "folders", "frame", "sources", "wandb_files", "wandb_server"):
        with (tmp_path / f"{name}.py").open("a") as stream:
            stream.write("# changed\n")
        code.append(cache._code.__wrapped__())
    assert len(set(code)) == 7


def test_sources_do_not_share(folder: Path) -> None:
    made = Made()
    for source in ("runs", "runs sweep=a", "offline:runs", "runs"):
        cache.kept(source, ["a 1"], made)
    assert (made.times, len(list(folder.iterdir()))) == (3, 3)


def test_few_runs_leave_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FEWEST", 3)
    made = Made()
    for _ in range(2):
        cache.kept("runs", ["a 1"] * 2, made)
    assert made.times == 2
    assert not folder.exists()
    cache.kept("runs", ["a 1"] * 3, made)
    assert folder.exists()


def test_what_was_warned_of_is_warned_of_again(folder: Path) -> None:
    def torn() -> pd.DataFrame:
        run_frame.warn("config.json: torn")
        return odd()

    for _ in range(2):
        with pytest.warns(RunWarning, match=r"config\.json: torn"):
            cache.kept("runs", ["a 1"], torn)
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"", b"PAR1 torn"])
def test_a_torn_cache_is_made_anew(content: bytes, folder: Path) -> None:
    made = Made()
    cache.kept("runs", ["a 1"], made)
    next(folder.iterdir()).write_bytes(content)
    frame = cache.kept("runs", ["a 1"], made)
    assert made.times == 2
    pd.testing.assert_frame_equal(frame, odd())


def test_text_that_no_file_can_hold_costs_only_the_cache(folder: Path) -> None:
    def half() -> pd.DataFrame:
        return run_frame.frame([RunRecord("r", "done", {}, {"name": "\ud800"})])

    assert cache.kept("runs", ["a 1"], half)["name"].item() == "\ud800"
    assert not folder.exists()


def test_no_runs_at_all() -> None:
    empty = run_frame.frame([])
    for _ in range(2):
        found = cache.kept("none", [], lambda: empty)
        pd.testing.assert_frame_equal(found, empty)


def _changes(folder: Path) -> list[tuple[str, Callable[[], object]]]:
    def same_size() -> None:  # in place, of the same size, with its old time
        path = folder / "summary.json"
        before = path.stat()
        path.write_text(path.read_text().replace("0.25", "0.75"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def replaced() -> None:
        fresh = folder / "fresh"
        fresh.write_text(json.dumps({"state": "failed", "cause": None}))
        fresh.replace(folder / "status.json")

    def provenance() -> None:
        (folder / "provenance.json").write_text(json.dumps({"attempts": [{"device": "x"}]}))

    def another() -> None:
        (folder.parent / "another").mkdir()
        (folder.parent / "another" / "history.jsonl").write_text("")

    return [("same size", same_size), ("replaced", replaced), ("provenance", provenance),
            ("renamed", lambda: folder.rename(folder.with_name("b"))),
            ("another", another)]  # fmt: skip


@pytest.mark.parametrize("name", ["config", "status", "summary", "provenance"])
def test_a_file_written_in_place_is_another(name: str, runs: Any, tmp_path: Path) -> None:
    folder = runs.folder(tmp_path, runs.config(), runs.summary(0.25))
    (folder / "provenance.json").write_text(json.dumps({"attempts": []}))
    before = folders.stamps(tmp_path)
    path = folder / f"{name}.json"
    path.write_text(path.read_text() + " ")
    assert folders.stamps(tmp_path) != before


@pytest.mark.parametrize("index", range(5))
def test_a_folder_tells_every_change_of_its_runs(index: int, runs: Any, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    folder = runs.folder(root, runs.config(), runs.summary(0.25), history=runs.history(2))
    before = folders.stamps(root)
    assert folders.stamps(root) == before
    name, change = _changes(folder)[index]
    change()
    assert folders.stamps(root) != before, name


@pytest.mark.parametrize("prefix", ["", "offline:"])
def test_load_runs_reads_a_changed_source_again(
    prefix: str, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    root = tmp_path / "runs"
    write = runs.offline if prefix else runs.folder
    write(root, runs.config(), runs.summary(0.25))
    source = f"{prefix}{root}"
    first = load_runs(source)
    assert len(list(folder.iterdir())) == 1
    with monkeypatch.context() as patched:
        patched.setattr("analysis.runs.frame", None)  # nothing is parsed again
        pd.testing.assert_frame_equal(load_runs(source), first, check_exact=True)
    write(root, runs.config(seed=1), runs.summary(0.5))
    assert load_runs(source)["test/accuracy"].tolist() == [0.25, 0.5]
    assert load_runs(source, states=["failed"]).empty
