"""Which run folder is meant, and one clear line where none will do."""

import json
from pathlib import Path

import pytest

from analysis.command.measuring import find_run, require_done
from bench.errors import UserError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("digits-adamw-s0-1a", "digits-adamw-s1-2b", "digits-muon-s0-3c", "lr=0.1[x]"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    (tmp_path / "runs" / "digits-muon-notes").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_paths_and_patterns(runs: Path) -> None:
    assert find_run("runs/digits-muon-s0-3c") == Path("runs/digits-muon-s0-3c")
    assert find_run("runs/*muon*") == Path("runs/digits-muon-s0-3c")  # the notes are no run
    assert find_run(f"{runs}/*muon*") == runs / "digits-muon-s0-3c"
    assert find_run("*/*-s1-??") == Path("runs/digits-adamw-s1-2b")
    assert find_run("runs/lr=0.1[x]") == Path("runs/lr=0.1[x]")  # a path that looks like a pattern


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs/*sgd*", "run=runs/*sgd*: the pattern matches no run folder"),
        ("runs/*adamw*", "matches 2 run folders (digits-adamw-s0-1a, digits-adamw-s1-2b); make it"),
        ("runs/*", "matches 4 run folders (digits-adamw-s0-1a, digits-adamw-s1-2b, "
                   "digits-muon-s0-3c, ...)"),
        ("runs/digits-muon-s0-3x", "no such folder; did you mean runs/digits-muon-s0-3c?"),
        ("elsewhere/x", "run=elsewhere/x: no such folder"),
        ("runs", "run=runs: not a run folder (it has no config.json)"),
        ("runs/digits-muon-s0-3c/config.json", "no such folder"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(runs: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        find_run(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ('{"state": "diverged", "cause": "loss is nan"}', "the run diverged: loss is nan; it has"),
        ('{"state": "running"}', "not finished (state running); give its training command again"),
        ('{"state": "failed", "cause": "disk full"}', "not finished (state failed: disk full)"),
        ("{torn", "not finished (state unknown)"),
        (None, "not finished (state unknown)"),
    ],
)
def test_only_finished_runs_are_measured(runs: Path, status: str | None, message: str) -> None:
    folder = runs / "digits-muon-s0-3c"
    if status is not None:
        (folder / "status.json").write_text(status)
    with pytest.raises(UserError) as caught:
        require_done(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    (folder / "status.json").write_text(json.dumps({"state": "done", "cause": None}))
    require_done(folder)
