from __future__ import annotations

import json
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from analysis.run import folders
from analysis.run.frame import RunRecord, RunWarning
from analysis.runs import load_runs


def by_id(root: Path) -> dict[str, RunRecord]:
    return {record.id: record for record in folders.records(root)}


def test_each_state_and_its_summary(runs: Any, tmp_path: Path) -> None:
    for seed, state in enumerate(["done", "diverged", "failed", "running"]):
        summary = runs.summary(0.1 * seed, state) if state != "failed" else None
        runs.folder(tmp_path, runs.config(seed=seed), summary, state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = sorted(folders.records(tmp_path), key=lambda record: record.id)
    assert [record.state for record in records] == ["done", "diverged", "failed", "running"]
    assert records[0].config == json.loads(json.dumps(runs.config(seed=0)))
    assert records[1].summary["test/accuracy"] == 0.1
    assert records[2].summary == {}
    assert records[3].summary == {}  # what a running run's folder holds is of an earlier attempt


def test_other_folders_are_skipped_in_silence(runs: Any, tmp_path: Path) -> None:
    folder = runs.folder(tmp_path, runs.config(), runs.summary(0.5))
    for name in ("wandb", ".multirun", "_archive", ".hidden"):
        (tmp_path / name).mkdir()
        shutil.copytree(folder, tmp_path / name / folder.name)
    (tmp_path / ".trash").mkdir()
    shutil.copy(folder / "config.json", tmp_path / ".trash" / "config.json")
    (tmp_path / "notes.txt").write_text("x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(by_id(tmp_path)) == [folder.name]


def test_one_run_folder_is_a_source_too(runs: Any, tmp_path: Path) -> None:
    folder = runs.folder(tmp_path, runs.config(), runs.summary(0.5), history=runs.history(3))
    assert list(by_id(folder)) == [folder.name]
    assert folders.history(folder, folder.name) == folders.history(tmp_path, folder.name)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", '{"id": "x", "se', "not whole JSON"),
        ("config.json", "[1, 2]", "not a JSON object"),
        ("config.json", None, "missing"),
        ("status.json", '{"state": ', "not whole JSON"),
        ("status.json", '{"state": "finished"}', "unknown state 'finished'"),
        ("summary.json", '{"test/accuracy": 0.9', "not whole JSON"),
        ("summary.json", "", "not whole JSON"),
        ("summary.json", None, "No such file"),
    ],
)
def test_a_damaged_run_is_shown_as_unreadable(
    name: str, content: str | None, reason: str, runs: Any, tmp_path: Path
) -> None:
    """A run cut short is neither a crash, nor complete, nor invisible."""
    good = runs.folder(tmp_path, runs.config(seed=1), runs.summary(0.5))
    bad = runs.folder(tmp_path, runs.config(seed=0), runs.summary(0.9))
    (bad / name).unlink() if content is None else (bad / name).write_text(content)
    with pytest.warns(RunWarning) as caught:
        records = by_id(tmp_path)
    (message,) = [str(warning.message) for warning in caught]
    assert str(bad / name) in message
    assert reason in message
    assert records[good.name].state == "done"
    assert records[bad.name].state == "unreadable"
    assert records[bad.name].summary == {}
    assert bool(records[bad.name].config) == (name != "config.json")


@pytest.mark.parametrize("own", ["../../elsewhere", "/etc", "..", "a\nb", "", 7, None])
def test_an_id_that_leads_elsewhere_is_no_id(own: Any, runs: Any, tmp_path: Path) -> None:
    folder = runs.folder(tmp_path, runs.config(), runs.summary(0.5))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id": own}))
    with pytest.warns(RunWarning, match="is no name of a run; the run is shown as unreadable"):
        records = by_id(tmp_path)
    assert [(name, record.state) for name, record in records.items()] == [
        (folder.name, "unreadable")
    ]


def test_a_file_nested_without_end_is_unreadable(runs: Any, tmp_path: Path) -> None:
    folder = runs.folder(tmp_path, runs.config(), runs.summary(0.5))
    (folder / "summary.json").write_text("[" * 200_000)
    with pytest.warns(RunWarning, match="not whole JSON"):
        assert by_id(tmp_path)[folder.name].state == "unreadable"


def test_texts_of_a_run_end_no_line_and_steer_no_terminal(runs: Any, tmp_path: Path) -> None:
    config = runs.config(model__note="a\n| b |\x1b[2J\u202ec", sweep="x\r\ny")
    config["names"]["optimizer"] = "adamw\n\n# title"
    runs.folder(tmp_path, config, runs.summary(0.5))
    (run,) = load_runs(tmp_path).to_dict("records")
    assert run["config.model.note"] == "a | b | [2J c"
    assert (run["sweep"], run["optimizer"]) == ("x y", "adamw # title")


def test_a_run_killed_before_its_first_status_is_running(runs: Any, tmp_path: Path) -> None:
    folder = runs.folder(tmp_path, runs.config(), runs.summary(0.9))
    (folder / "status.json").unlink()
    assert by_id(tmp_path)[folder.name].state == "running"


@pytest.mark.parametrize("copy", ["AAA-copy", "zzz-copy"])
def test_a_copied_folder_is_not_another_run(copy: str, runs: Any, tmp_path: Path) -> None:
    folder = runs.folder(tmp_path, runs.config(), runs.summary(0.5))
    shutil.copytree(folder, tmp_path / copy)
    (tmp_path / copy / "summary.json").write_text(json.dumps(runs.summary(0.1)))
    with pytest.warns(RunWarning, match=f"{copy}: a second folder of run"):
        records = folders.records(tmp_path)
    assert [record.summary["test/accuracy"] for record in records] == [0.5]


def test_history_of_a_killed_run_drops_the_torn_line(runs: Any, tmp_path: Path) -> None:
    rows = runs.history(5)
    folder = runs.folder(tmp_path, runs.config(), None, "running", rows)
    path = folder / "history.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        found = folders.history(tmp_path, folder.name)
        assert found == rows[: len(found)]
        assert len(found) >= whole[:cut].count(b"\n")


def test_history_damaged_in_the_middle_is_an_error(runs: Any, tmp_path: Path) -> None:
    folder = runs.folder(tmp_path, runs.config(), None, "running", runs.history(5))
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join([*lines[:1], "{oops\n", *lines[2:]]))
    with pytest.raises(ValueError, match=r"history\.jsonl, line 2: not whole JSON"):
        folders.history(tmp_path, folder.name)


def test_history_of_an_unknown_run_names_the_nearest(runs: Any, tmp_path: Path) -> None:
    folder = runs.folder(tmp_path, runs.config(), None)
    with pytest.raises(ValueError, match=f"no run .* the nearest is '{folder.name}'"):
        folders.history(tmp_path, folder.name[:-2])


def test_a_thousand_runs_load_within_two_cpu_seconds(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 runs must load within 20 s."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for seed in range(1000):
        runs.folder(tmp_path / "runs", runs.config(seed=seed), runs.summary(seed / 1000))
    begin = time.process_time()
    table = load_runs(tmp_path / "runs")
    assert time.process_time() - begin < 2.0
    assert table["seed"].tolist() == list(range(1000))


def test_provenance_is_that_of_the_latest_attempt(runs: Any, tmp_path: Path) -> None:
    folder = runs.folder(tmp_path, runs.config(), runs.summary(0.9))
    assert folders.records(tmp_path)[0].provenance == {}
    for content, expected in [
        ({"attempts": [{"device": "a"}, {"device": "b"}]}, {"device": "b"}),
        (
            {"attempts": [{"started": "1"}, "x", {"started": "2", "device": "b"}]},
            {"started": "2", "device": "b", "began": "1"},
        ),
        ({"attempts": []}, {}),
        ({"attempts": "x"}, {}),
        ({}, {}),
    ]:
        (folder / "provenance.json").write_text(json.dumps(content))
        assert folders.records(tmp_path)[0].provenance == expected
