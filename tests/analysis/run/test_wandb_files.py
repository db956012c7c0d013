from __future__ import annotations

import math
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.run import wandb_files
from analysis.run.wandb_files import HEADER, WandbFileError, WandbRun, fold, read_file


@pytest.fixture(scope="module")
def config(runs: Any) -> dict[str, Any]:
    made: dict[str, Any] = runs.config("muon", seed=3, sweep="grid", schedule__points=(1, 2.5))
    return made


@pytest.fixture(scope="module")
def history(runs: Any) -> list[dict[str, Any]]:
    # A long value in some rows, so that records cross the 32 KiB blocks of the log.
    rows: list[dict[str, Any]] = runs.history(40)
    return [row | ({"note": "x" * 9000} if i % 3 == 0 else {}) for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def log(
    runs: Any,
    config: dict[str, Any],
    history: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    summary = runs.summary(0.5, oddity=math.inf)
    path: Path = runs.offline(tmp_path_factory.mktemp("log"), config, summary, history)
    assert path.stat().st_size > 3 * 32 * 1024
    return path


def own(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def test_a_finished_run_is_read_whole(
    log: Path, runs: Any, config: dict[str, Any], history: list[dict[str, Any]]
) -> None:
    run = read_file(log)
    assert (run.id, run.project, run.group) == (config["id"], "spectral-bench", "grid")
    assert sorted(run.tags) == ["offline", "test"]
    assert run.exit_code == 0
    assert run.started > 1.6e9
    assert [own(row) for row in run.history] == history
    assert [row["_step"] for row in run.history] == [row["step"] for row in history]
    assert run.summary == runs.summary(0.5, oddity=math.inf)
    assert run.config.pop("provenance") == {"commit": None, "dirty": True}
    lists = {"dataset": {**config["dataset"], "shape": [8, 8]}}
    lists["schedule"] = {**config["schedule"], "points": [1, 2.5]}
    assert run.config == {**config, **lists}


def test_history_beyond_what_wandbs_sampled_history_returns(runs: Any, tmp_path: Path) -> None:
    rows = [{"step": i, "train/loss": i / 7} for i in range(700)]  # run.history() gives 500
    run = read_file(runs.offline(tmp_path, runs.config(), {}, rows))
    assert [own(row) for row in run.history] == rows


def test_history_can_be_left_out(log: Path) -> None:
    whole, short = read_file(log), read_file(log, history=False)
    assert whole.history
    assert short.history == []
    assert (short.config, short.summary, short.id) == (whole.config, whole.summary, whole.id)


def test_a_tail_torn_anywhere_gives_only_whole_true_rows(
    log: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    whole, data = read_file(log), log.read_bytes()
    torn = tmp_path / log.name
    counts = []
    for cut in [*range(40), *range(40, len(data), 487), *range(len(data) - 60, len(data))]:
        torn.write_bytes(data[:cut])
        run = read_file(torn)
        assert run.history == whole.history[: len(run.history)]
        assert run.id == config["id"]
        assert run.config in ({}, whole.config)
        assert run.exit_code is None or cut == len(data)
        counts.append(len(run.history))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == len(whole.history)


def test_zeros_for_a_tail_that_was_never_written_are_a_torn_tail(log: Path, tmp_path: Path) -> None:
    torn = tmp_path / log.name
    torn.write_bytes(log.read_bytes()[:50_000] + bytes(5000))
    with pytest.raises(WandbFileError):  # the cut record goes on with zeros: damage, and said so
        read_file(torn)
    whole_records = HEADER + chunk(b"", 1)
    torn.write_bytes(whole_records + bytes(5000))
    assert read_file(torn).history == []
    torn.write_bytes(whole_records + bytes(5000) + b"x")
    with pytest.raises(WandbFileError, match="damaged"):
        read_file(torn)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_changed_byte_is_an_error_or_a_shorter_run_never_a_wrong_row(
    log: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole, content = read_file(log), bytearray(log.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    damaged = tmp_path_factory.mktemp("damaged") / log.name
    damaged.write_bytes(content)
    try:
        run = read_file(damaged)
    except WandbFileError as error:
        assert str(damaged) in str(error)
    else:
        assert run.history == whole.history[: len(run.history)]


def test_damage_in_the_middle_names_file_and_place(log: Path, tmp_path: Path) -> None:
    content = bytearray(log.read_bytes())
    content[1000] ^= 1
    damaged = tmp_path / log.name
    damaged.write_bytes(content)
    with pytest.raises(WandbFileError, match=r"run-.*\.wandb: damaged at byte \d+"):
        read_file(damaged)


def chunk(body: bytes, kind: int) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(bytes([kind])))
    return struct.pack("<IHB", checksum, len(body), kind) + body


def framed(bodies: list[bytes]) -> bytes:
    """Return a log of ``bodies``: an independent writer of LevelDB's framing."""
    log = bytearray(HEADER)
    for body in bodies:
        begin, end, first = 0, -1, True
        while end < len(body):
            room = 32768 - len(log) % 32768
            if room < 7:
                log += bytes(room)
                continue
            end = min(begin + room - 7, len(body))
            last = end == len(body)
            log += chunk(body[begin:end], (1 if last else 2) if first else (4 if last else 3))
            begin, first = end, False
    return bytes(log)


@pytest.mark.parametrize("sizes", [[], [0], [40_000], [32_700, 70_000, 5]])
def test_records_are_whole_wherever_blocks_end(sizes: list[int], tmp_path: Path) -> None:
    """Also where a block has 1 to 6 bytes left (padding), or exactly a chunk's header."""
    from wandb.proto.wandb_internal_pb2 import Record

    def history(step: int, length: int) -> bytes:
        record = Record()
        record.history.step.num = step
        record.history.item.add(key="x", value_json='"' + "x" * length + '"')
        return bytes(record.SerializeToString())

    path, left = tmp_path / "run-x.wandb", set()
    for length in range(32_768 - 60, 32_768):  # the first record ends at about a block's end
        lengths = [length, *sizes, 3]
        bodies = [history(step, length) for step, length in enumerate(lengths)]
        left.add(-len(framed(bodies[:1])) % 32_768)
        path.write_bytes(framed(bodies))
        rows = read_file(path).history
        assert [(row["_step"], len(row["x"])) for row in rows] == list(enumerate(lengths))
    assert left >= set(range(10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 a zip", "not a W&B log"),
        (b"not a log at all", "not a W&B log"),
        (HEADER[:5] + b"\x00\x07" + b"later version", "not a W&B log"),
        (HEADER + chunk(b"\xff\xff\xff", 1), "not a record of a W&B log"),
        (HEADER + chunk(b"", 3) + chunk(b"", 1), "a record has a hole"),
        (HEADER + chunk(b"", 4), "a record has a hole"),
        (HEADER + chunk(b"", 2) + chunk(b"", 1), "a record has a hole"),
        (HEADER + chunk(b"", 9) + chunk(b"", 1), "a record has a hole"),
    ],
)
def test_what_is_not_a_log_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run-x.wandb"
    path.write_bytes(content)
    with pytest.raises(WandbFileError, match=message) as caught:
        read_file(path)
    assert str(path) in str(caught.value)


def test_files_are_found_anywhere_and_links_are_not_followed(log: Path, tmp_path: Path) -> None:
    root = log.parent.parent
    assert (root / "latest-run").is_symlink()
    assert wandb_files.find_files(root.parent) == [log]
    shutil.copytree(log.parent, tmp_path / "a" / "deep" / log.parent.name)
    (tmp_path / "a" / "debug.wandb").write_text("")
    found = wandb_files.find_files(tmp_path)
    assert [path.name for path in found] == [log.name]
    assert wandb_files.run_id(found[0]) == read_file(log).id


def test_a_resumed_run_is_one_run(runs: Any, tmp_path: Path) -> None:
    """Two real attempts: the second tells the whole history again, with another row at 20."""
    rows = runs.history(6)
    first = runs.offline(tmp_path / "a", runs.config(), {}, rows[:3], exit_code=1)
    again = [row | ({"train/loss": 9.5} if row["step"] == 20 else {}) for row in rows]
    changed = runs.config(runs_dir="elsewhere")
    second = runs.offline(tmp_path / "b", changed, runs.summary(0.75), again)
    attempts = [read_file(second), read_file(first)]
    run = fold(attempts)
    assert [own(row) for row in run.history] == again
    assert run.config["runs_dir"] == "elsewhere"
    assert run.summary == runs.summary(0.75)
    assert run.exit_code == 0
    assert fold(attempts[::-1]) == run


def attempt(stamp: str, started: float, **what: Any) -> WandbRun:
    return WandbRun("r", stamp=stamp, started=started, **what)


def test_the_latest_attempt_decides_even_when_it_was_killed_at_once() -> None:
    """A killed attempt makes the run unfinished; an old torn file does not undo a later end."""
    done = attempt("20260101_120000", 5.0, config={"a": 1}, summary={"state": "done"}, exit_code=0)
    after, before = attempt("20260101_130000", 0.0), attempt("20260101_110000", 0.0)
    killed = fold([after, done])
    assert killed.summary == {}
    assert killed.exit_code is None
    assert killed.config == {"a": 1}
    assert fold([before, done]).summary == {"state": "done"}


def test_rows_of_an_earlier_attempt_beyond_the_later_one_stay() -> None:
    first = attempt("1", 1.0, history=[{"_step": 0, "x": 1}, {"_step": 9, "x": 2}])
    second = attempt("2", 2.0, history=[{"_step": 0, "y": 3}])
    assert fold([first, second]).history == [{"_step": 0, "y": 3}, {"_step": 9, "x": 2}]


def test_a_removed_config_key_is_gone(runs: Any, tmp_path: Path) -> None:
    import wandb

    quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True)
    run = wandb.init(
        mode="offline", project="p", id="x", dir=str(tmp_path), settings=quiet, config={"a": 1}
    )
    run.config.update({"late": {"b": [1, 2]}})
    run.summary["gone"] = 1
    run.summary["kept"] = 2
    del run.summary["gone"]
    run.finish()
    (path,) = wandb_files.find_files(tmp_path)
    found = read_file(runs.written(path))
    assert found.config == {"a": 1, "late": {"b": [1, 2]}}
    assert found.summary == {"kept": 2}
