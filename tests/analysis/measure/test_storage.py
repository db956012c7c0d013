"""Parquet tables with metadata: what comes back, and what a torn or foreign file does."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis.measure.storage import read_table, write_table

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
