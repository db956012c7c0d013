"""Asking for a run again: done once, continued, tried again, refused while another works on it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import setup, train
from bench.config import RunConfig
from bench.data.images import ImageData
from bench.errors import UserError
from bench.identity import identify
from bench.run_folder import RunFolder

Make = Callable[..., RunConfig]
Same = Callable[..., None]


def folder_of(config: RunConfig) -> RunFolder:
    return RunFolder(Path(config.runs_dir) / identify(config).id)


def contents(folder: RunFolder) -> dict[str, tuple[bytes, int]]:
    """A finished run's files and when they were written, but for its status, which may change."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.path.iterdir()
        if path.name not in ("status.json", ".lock")
    }


def forbid_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: RunConfig) -> ImageData:
        raise AssertionError("the data were built")

    monkeypatch.setattr(train, "build_data", refuse)


# -- asking again ---------------------------------------------------------------------------------


def test_a_done_run_is_not_trained_again(
    quick: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = quick()
    first = train.train(run)
    before = contents(folder_of(run))
    forbid_data(monkeypatch)
    capsys.readouterr()
    assert train.train(run) == first
    assert contents(folder_of(run)) == before
    assert ": already done, test accuracy" in capsys.readouterr().out


def test_a_diverged_run_is_a_result_with_its_history(
    quick: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = quick("optimizer=sgd", "optimizer.lr=1e30")
    summary = train.train(run)
    folder = folder_of(run)
    assert folder.status["state"] == summary["state"] == "diverged"
    cause = folder.status["cause"]
    assert re.fullmatch(r"training loss is (nan|inf) at step [23]", cause)
    assert f"diverged, {cause}" in capsys.readouterr().out
    rows = folder.history()
    assert rows
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert summary["steps"] == rows[-1]["step"] == int(cause[-1]) - 1
    assert not [key for key in summary if "accuracy" in key or "loss" in key]
    before = contents(folder)
    forbid_data(monkeypatch)
    assert train.train(run) == summary
    assert contents(folder) == before
    assert f"already diverged, {cause}" in capsys.readouterr().out


def test_a_failed_run_says_why_and_is_tried_again(
    moody: Make, parts: Any, quick: Make, assert_same: Same, tmp_path: Path
) -> None:
    run = moody("trainer.epochs=2", "trainer.checkpoint_every=1")
    parts.Moody.at = 5
    with pytest.raises(RuntimeError, match="boom"):
        train.train(run)
    folder = folder_of(run)
    assert folder.status["state"] == "failed"
    assert folder.status["cause"] == "RuntimeError: boom"  # one line
    assert not folder.finished
    assert len(folder.history()) == 4
    parts.Moody.at = None
    assert train.train(run)["state"] == "done"
    assert parts.Moody.steps == 5 + 2  # it went on from step 4
    assert folder.status["cause"] is None
    assert len(folder.provenance["attempts"]) == 2
    whole = moody(
        "trainer.epochs=2", "trainer.checkpoint_every=1", f"runs_dir={tmp_path / 'whole'}"
    )
    train.train(whole)
    assert_same(folder.load_checkpoint(), folder_of(whole).load_checkpoint())
    assert folder.history() == folder_of(whole).history()


def test_an_interrupted_run_is_running_and_continues(
    watched: Make,
    parts: Any,
    capsys: pytest.CaptureFixture[str],
    assert_same: Same,
    tmp_path: Path,
) -> None:
    words = ["trainer.epochs=2", "trainer.checkpoint_every=2", "trainer.checkpoint_seconds=0"]
    run = watched(*words)
    parts.Moody.at, parts.Moody.error = 4, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        train.train(run)
    folder = folder_of(run)
    assert (folder.status["state"], folder.status["cause"]) == ("running", None)
    assert parts.Watcher.calls[-1] == ("abandon", False)
    assert not folder.summary
    parts.Moody.at = None
    capsys.readouterr()
    train.train(run)
    assert f"{folder.path.name}: continues at step 3 of 6" in capsys.readouterr().out
    whole = watched(*words, f"runs_dir={tmp_path / 'whole'}")
    train.train(whole)
    assert_same(folder.load_checkpoint(), folder_of(whole).load_checkpoint())
    assert folder.history() == folder_of(whole).history()
    timeless = [
        {
            key: value
            for key, value in one.summary.items()
            if "second" not in key and key != "memory/peak_mib"
        }
        for one in (folder, folder_of(whole))
    ]
    assert timeless[0] == timeless[1]


def test_a_run_killed_before_its_first_checkpoint_begins_anew(moody: Make, parts: Any) -> None:
    run = moody()
    parts.Moody.at, parts.Moody.error = 2, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        train.train(run)
    parts.Moody.at = None
    assert train.train(run)["steps"] == 3
    assert parts.Moody.steps == 2 + 3


def test_a_run_killed_before_it_was_called_done_trains_no_step_more(
    moody: Make, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = moody()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        train.train(run)
    assert folder_of(run).status["state"] == "running"
    summary = train.train(run)
    assert summary["state"] == "done"
    assert parts.Moody.steps == 3


def test_a_run_whose_checkpoints_are_torn_begins_anew_with_a_warning(
    moody: Make, parts: Any, assert_same: Same
) -> None:
    run = moody()
    parts.Moody.at, parts.Moody.error = 3, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        train.train(moody("trainer.checkpoint_every=1"))
    folder = folder_of(run)  # how often it is checkpointed is not part of its identity
    for path in folder.path.glob("checkpoint*.pt"):
        path.write_bytes(path.read_bytes()[:500])
    parts.Moody.at = None
    with pytest.warns(UserWarning, match="using an earlier state"):
        train.train(run)
    assert [row["step"] for row in folder.history()] == [1, 2, 3]


def test_a_run_that_another_process_works_on_is_refused(quick: Make) -> None:
    run = quick()
    other = RunFolder(folder_of(run).path)
    other.acquire()
    with pytest.raises(UserError, match="is working on this run"):
        train.train(run)
    assert not (other.path / "config.json").exists()
    other.release()
    assert train.train(run)["state"] == "done"
    other.acquire()  # given back at the end
    other.release()


def test_a_run_that_another_process_finishes_meanwhile_is_not_trained_again(
    moody: Make, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = moody()
    build_data = train.build_data

    def slowly(config: RunConfig) -> ImageData:
        with monkeypatch.context() as patch:
            patch.setattr(train, "build_data", build_data)
            train.train(config)  # the other one's work, from its beginning to its end
        return build_data(config)

    monkeypatch.setattr(train, "build_data", slowly)
    assert train.train(run)["state"] == "done"
    assert parts.Moody.steps == 3
    assert len(folder_of(run).provenance["attempts"]) == 1


def test_threads_are_not_those_of_the_run_before(
    quick: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "_DEFAULT_THREADS", 2)
    for override, threads in (("trainer.threads=1", 1), ("trainer.threads=null", 2)):
        train.train(quick(override, f"seed={threads}"))
        assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "override", ["trainer.batch_size=2000", "dataset.validation=0", "dataset=cifar10"]
)
def test_what_the_data_refuse_leaves_nothing_behind(
    quick: Make, tmp_path: Path, override: str
) -> None:
    with pytest.raises(UserError):
        train.train(quick(override, f"data_dir={tmp_path / 'data'}"))
    assert list(tmp_path.iterdir()) == []
