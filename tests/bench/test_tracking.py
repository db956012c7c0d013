"""Trackers come after the run folder, and cannot hurt the run."""

from __future__ import annotations

import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from wandb_server import without_wandb

from analysis.run.wandb_files import _bodies, find_files, fold, read_file
from bench.tracking import (
    Guarded,
    NullTracker,
    RunInfo,
    Tracker,
    WandbTracker,
    chart_axis,
    layer_tables,
    seen_a_step,
)

HISTORY = [
    {"step": 2, "epoch": 0.5, "train/loss": 1.5, "lr": 0.1},
    {"step": 4, "epoch": 1.0, "train/loss": 1.25, "lr": 0.05, "val/accuracy": 0.75},
    {"step": 6, "epoch": 1.5, "train/loss": 1.125, "lr": 0.0},
]
SUMMARY = {"state": "done", "test/accuracy": 0.875, "best/epoch": 1.0, "steps": 6}
CONFIG = {
    "id": "digits-mlp-sgd-s0-0123456789",
    "variant": "abc",
    "seed": 0,
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, "betas": [0.9, 0.99]},
    "exponents": None,
    "provenance": {"device": "cpu", "git": {"commit": "f00", "dirty": False}},
}


class Fails:
    """A tracker that raises in one method."""

    def __init__(self, where: str, error: BaseException) -> None:
        self.where, self.error, self.calls = where, error, list[str]()

    def _told(self, name: str) -> None:
        self.calls.append(name)
        if name == self.where:
            raise self.error

    def start(self) -> None:
        self._told("start")

    def log(self, history: list[dict[str, Any]]) -> None:
        self._told("log")

    def finish(self, summary: dict[str, Any]) -> None:
        self._told("finish")

    def abandon(self, *, failed: bool) -> None:
        self._told("abandon")


def tell_all(tracker: Tracker) -> None:
    tracker.start()
    tracker.log(HISTORY[:1])
    tracker.log(HISTORY)
    tracker.finish(SUMMARY)
    tracker.abandon(failed=True)


# -- the guard ------------------------------------------------------------------------------------


def test_a_healthy_tracker_is_told_everything_without_a_warning() -> None:
    inner = Fails("never", ValueError())
    guarded = Guarded(inner)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell_all(guarded)
    assert inner.calls == ["start", "log", "log", "finish", "abandon"]
    assert guarded.healthy


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("start", ["start"]),
        ("log", ["start", "log"]),
        ("finish", ["start", "log", "log", "finish"]),
        ("abandon", ["start", "log", "log", "finish", "abandon"]),
    ],
)
@pytest.mark.parametrize("error", [OSError("disk full\nmore"), RuntimeError(), KeyError("key")])
def test_a_tracker_that_fails_warns_once_and_is_left_alone(
    where: str, told: list[str], error: Exception
) -> None:
    inner = Fails(where, error)
    guarded = Guarded(inner)
    with pytest.warns(UserWarning, match="tracker stopped") as caught:
        tell_all(guarded)
    assert inner.calls == told
    assert not guarded.healthy
    assert len(caught) == 1
    text = str(caught[0].message)
    assert type(error).__name__ in text
    assert "ask for the run again to send it later" in text
    assert "\n" not in text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_person_who_stops_the_run_is_no_failure_of_the_tracker(
    error: type[BaseException],
) -> None:
    with pytest.raises(error):
        Guarded(Fails("log", error())).log(HISTORY)


def test_the_null_tracker_does_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tell_all(NullTracker(RunInfo("x", None, {}, tmp_path)))
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


# -- W&B, the real client, offline ----------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[socket.socket]:
    """Where the W&B client would connect to, were it to connect: nobody answers."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    listening.setblocking(False)
    yield listening
    listening.close()


@pytest.fixture(scope="module")
def offline(
    tmp_path_factory: pytest.TempPathFactory, server: socket.socket
) -> tuple[Path, dict[str, str]]:
    """A runs folder with two attempts of one W&B run, and the environment they left behind."""

    folder = tmp_path_factory.mktemp("wandb") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        without_wandb(patch)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        patch.setenv("WANDB_BASE_URL", address)
        patch.setenv("WANDB_API_KEY", "0" * 40)
        for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(proxy, address)
        before, sent = dict(os.environ), list[int]()
        info = RunInfo(CONFIG["id"], "grid", CONFIG, folder)  # type: ignore[arg-type]
        first = WandbTracker(info, project="p", tags=["a", "b"])
        first.start()
        first.log(HISTORY[:1])
        first.log(HISTORY[:2])
        first.abandon(failed=True)
        time.sleep(1.0)  # W&B names an attempt's folder by the second
        second = WandbTracker(info, project="p", tags=["a", "b"])
        second.start()
        spy_on(second, sent)
        second.log(HISTORY[:2])
        second.log(HISTORY)
        second.log(HISTORY)  # nothing new: nothing sent
        second.finish(SUMMARY)
        changed = {
            key: value
            for key, value in os.environ.items()
            if key.startswith("WANDB_") and before.get(key) != value
        }
        assert sent == [2, 4, 6]  # each row once; the client would drop the others with a warning
    return folder, changed


def spy_on(tracker: WandbTracker, sent: list[int]) -> None:
    """Note the steps that the real client is given."""
    log = tracker._run.log

    def noted(row: dict[str, Any], step: int) -> None:
        sent.append(step)
        log(row, step=step)

    tracker._run.log = noted


def test_each_attempt_is_a_file_of_the_same_wandb_run(offline: tuple[Path, Any]) -> None:
    files = find_files(offline[0])
    assert [file.name for file in files] == [f"run-{CONFIG['id']}.wandb"] * 2
    assert all(file.parent.parent == offline[0] / "wandb" for file in files)
    assert all(file.parent.name.startswith("offline-run-") for file in files)
    assert all(file.parent.name.endswith(f"-{CONFIG['id']}") for file in files)


def test_an_attempt_that_was_abandoned_says_so(offline: tuple[Path, Any]) -> None:
    first = read_file(find_files(offline[0])[0])
    assert first.exit_code == 1
    assert first.summary == {"state": "failed"}
    assert [row["_step"] for row in first.history] == [2, 4]


def test_the_last_attempt_is_the_whole_run(offline: tuple[Path, Any]) -> None:
    second = read_file(find_files(offline[0])[1])
    assert (second.id, second.project, second.group) == (CONFIG["id"], "p", "grid")
    assert second.tags == ["a", "b"]
    assert second.config == CONFIG
    assert second.exit_code == 0
    assert second.summary == SUMMARY  # and not the last row's values over it
    own = [{k: v for k, v in row.items() if not k.startswith("_")} for row in second.history]
    assert own == HISTORY  # all of it, once
    assert [row["_step"] for row in second.history] == [row["step"] for row in HISTORY]


def test_the_two_attempts_fold_into_one_run(offline: tuple[Path, Any]) -> None:
    run = fold([read_file(file) for file in find_files(offline[0])])
    assert [row["step"] for row in run.history] == [2, 4, 6]
    assert run.summary["state"] == "done"


def test_offline_is_offline(offline: tuple[Path, Any], server: socket.socket) -> None:
    with pytest.raises(BlockingIOError):  # nobody is waiting to be answered
        server.accept()


def test_the_environment_is_left_as_it_was(offline: tuple[Path, dict[str, str]]) -> None:
    assert "WANDB_MODE" not in offline[1]
    assert "WANDB_DIR" not in offline[1]


def test_nothing_is_written_beside_the_runs_folder(offline: tuple[Path, Any]) -> None:
    assert [path.name for path in offline[0].parent.iterdir()] == ["runs"]
    assert [path.name for path in offline[0].iterdir()] == ["wandb"]


def test_a_run_that_was_interrupted_has_no_final_state(tmp_path: Path) -> None:
    tracker = WandbTracker(RunInfo("x", None, {}, tmp_path / "runs"))
    tracker.start()
    tracker.log(HISTORY[:1])
    tracker.abandon(failed=False)
    (file,) = find_files(tmp_path)
    run = read_file(file)
    assert run.exit_code == 1
    assert run.summary == {}
    assert len(run.history) == 1


def test_evaluations_within_an_epoch_have_an_axis_of_their_own(tmp_path: Path) -> None:
    from wandb.proto import wandb_internal_pb2 as messages

    tracker = WandbTracker(RunInfo("x", None, {}, tmp_path / "runs"))
    tracker.start()
    tracker.log([{"step": 3, "epoch": 0.75, "step/val_loss": 2.0}])
    tracker.finish({"state": "done"})
    (file,) = find_files(tmp_path)
    records = [messages.Record.FromString(body) for body in _bodies(file.read_bytes(), file)]
    axes = {
        record.metric.glob_name: record.metric.step_metric
        for record in records
        if record.WhichOneof("record_type") == "metric"
    }
    assert (axes["step/*"], axes["val/*"]) == ("step", "epoch")
    (row,) = read_file(file).history
    assert (row["step"], row["step/val_loss"]) == (3, 2.0)


def test_disabled_writes_no_log(tmp_path: Path) -> None:
    info = RunInfo("x", None, json.loads(json.dumps(CONFIG)), tmp_path / "runs")
    tracker = WandbTracker(info, mode="disabled")
    tracker.start()
    tracker.log(HISTORY)
    tracker.finish(SUMMARY)
    assert find_files(tmp_path) == []


# -- what charts and tables need ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "seen"),
    [
        ({}, {}),
        ({"trainer": {"batch_size": 8}, "dataset": {}}, {"seen/samples": 8}),
        (
            {"trainer": {"batch_size": 8}, "dataset": {"context_length": 16}},
            {"seen/samples": 8, "seen/tokens": 128},
        ),
    ],
)
def test_what_a_step_sees(config: dict[str, Any], seen: dict[str, int]) -> None:
    assert seen_a_step(config) == seen


@pytest.mark.parametrize(
    ("x", "seen", "axis"),
    [
        ("epoch", {}, "epoch"),
        ("seconds", {}, "_runtime"),
        ("samples", {"seen/samples": 8, "seen/tokens": 128}, "seen/samples"),
        ("tokens", {"seen/samples": 8, "seen/tokens": 128}, "seen/tokens"),
        ("tokens", {"seen/samples": 8}, "seen/samples"),  # images have none
    ],
)
def test_what_charts_are_drawn_against(x: Any, seen: dict[str, int], axis: str) -> None:
    assert chart_axis(x, seen) == axis


def test_the_table_of_layers_is_the_folders(tmp_path: Path) -> None:
    assert layer_tables(tmp_path) == {}
    frame = pd.DataFrame({"layer": ["a", "b", "c"], "alpha": [0.5, np.nan, np.inf], "step": 7})
    frame.to_parquet(tmp_path / "exponents.parquet")
    ((name, (columns, rows)),) = layer_tables(tmp_path).items()
    assert (name, columns) == ("curvature/layers", ["layer", "alpha", "step"])
    assert rows == [["a", 0.5, 7], ["b", None, 7], ["c", None, 7]]


def test_the_latest_rows_of_a_long_table(tmp_path: Path) -> None:
    pd.DataFrame({"step": range(10_001)}).to_parquet(tmp_path / "exponents.parquet")
    ((_, (_, rows)),) = layer_tables(tmp_path).items()
    assert (len(rows), rows[0], rows[-1]) == (10_000, [1], [10_000])
