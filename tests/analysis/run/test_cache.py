from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest

from analysis.run import cache_files
from analysis.run.cache import RunCache, Told
from analysis.run.cache_files import cache_folder

TOLD = {
    "b": Told("b", "2026 finished 5", {"id": "b", "lr": 0.1, "betas": [0.9, 0.99]}, {"x": "NaN"}),
    "a": Told("a", "2025 running 1", {}, {}),
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
