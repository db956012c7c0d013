"""Atomic writes and tolerant reads.

Where conf/ and sweeps/ are found.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import files
from bench.files import (
    is_name,
    read_json,
    read_json_lines,
    write_atomically,
    write_json,
    write_json_lines,
)

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(st.dictionaries(st.text(max_size=6), NUMBERS, max_size=4), max_size=5)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_is_written_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", lambda stream: stream.write(b"new"))
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def torn(stream: IO[bytes]) -> None:
        stream.write(b"half of the ne")
        stream.flush()
        assert path.read_bytes() == b"old"  # not touched while the new one is written
        raise error

    with pytest.raises(error):
        write_atomically(path, torn)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    def torn(stream: IO[bytes]) -> None:
        stream.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(tmp_path / "a", torn)
    assert names(tmp_path) == []


def test_the_file_is_replaced_and_not_written_over(tmp_path: Path) -> None:
    # A reader that opened the old file goes on reading the old one.
    path = tmp_path / "a"
    path.write_bytes(b"old content")
    with path.open("rb") as reader:
        write_atomically(path, lambda stream: stream.write(b"new"))
        assert reader.read() == b"old content"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("value", [math.nan, math.inf, object()])
def test_what_is_not_json_is_refused_before_the_file_is_touched(
    tmp_path: Path, value: object
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"a": value})
    with pytest.raises((ValueError, TypeError)):
        write_json_lines(path, [{"a": 1}, {"a": value}])
    assert read_json(path) == {"a": 1}
    assert names(tmp_path) == ["a.json"]


def test_json_is_for_people_too(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None, True], "ä": {"c": "d"}})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"b": [1, 2.5, None, True], "ä": {"c": "d"}}
    assert text.count("\n") > 3
    assert text.endswith("}\n")


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"[1]", b"3", b"\xff\xfe", b"null"])
def test_what_is_no_whole_object_reads_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") is None


def test_an_absent_file_reads_as_none_or_no_rows(tmp_path: Path) -> None:
    assert read_json(tmp_path / "absent.json") is None
    assert read_json_lines(tmp_path / "absent.jsonl") == []


@settings(max_examples=30, deadline=None)
@given(rows=ROWS)
def test_rows_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    write_json_lines(path, rows)
    assert read_json_lines(path) == rows
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(rows)


def test_floats_keep_every_bit(tmp_path: Path) -> None:
    row = {"a": 0.1 + 0.2, "b": 1e-300, "c": 2.5e30}
    write_json_lines(tmp_path / "a.jsonl", iter([row]))
    assert read_json_lines(tmp_path / "a.jsonl") == [row]


@pytest.mark.parametrize("name", ["digits-mlp-adamw-s0-1a2b", "config.json", "two words", "ä"])
def test_a_name(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "/x", "a/b", "a\0", "a\n", "\ud800", 3, None]
)
def test_what_is_no_name(name: object) -> None:
    assert not is_name(name)


ROOT = Path(__file__).resolve().parents[2]


def test_a_checkout_is_found_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.home() == ROOT
    assert files.conf_dir() == ROOT / "conf"
    assert (files.home() / "sweeps").is_dir()


def test_an_installation_finds_what_was_shipped_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "spectral_bench_shipped"
    (shipped / "conf").mkdir(parents=True)
    (shipped / "conf" / "train.yaml").write_text("seed: 0\n")
    (tmp_path / "conf").mkdir()  # some other package's folder, without our train.yaml
    monkeypatch.setattr(files, "_SITE", tmp_path)
    assert files.home() == shipped
    assert files.conf_dir() == shipped / "conf"


def test_a_checkout_goes_before_shipped_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, tmp_path / "spectral_bench_shipped"):
        (folder / "conf").mkdir(parents=True)
        (folder / "conf" / "train.yaml").write_text("seed: 0\n")
    monkeypatch.setattr(files, "_SITE", tmp_path)
    assert files.home() == tmp_path


def test_an_incomplete_installation_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SITE", tmp_path)
    with pytest.raises(FileNotFoundError, match="reinstall spectral-bench") as caught:
        files.conf_dir()
    assert str(tmp_path) in str(caught.value)
