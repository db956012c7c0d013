"""A run from its config to its folder, and what its tracker is told.

Kinds of failure by their errors, real ones where they can be had.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.run.wandb_files import find_files, read_file
from bench import parts as experiment
from bench import train
from bench.config import RunConfig
from bench.errors import UserError
from bench.identity import identify, tracker_label
from bench.run_folder import RunFolder
from bench.seeding import derive
from bench.train import kind_of, reason_of

Make = Callable[..., RunConfig]
Same = Callable[..., None]
EACH_EPOCH = ("trainer.epochs=2", "trainer.checkpoint_seconds=0")
FILES = [
    "checkpoint.prev.pt",
    "checkpoint.pt",
    "config.json",
    "history.jsonl",
    "provenance.json",
    "status.json",
    "summary.json",
]


def folder_of(config: RunConfig) -> RunFolder:
    return RunFolder(Path(config.runs_dir) / identify(config).id)


def contents(folder: RunFolder) -> dict[str, tuple[bytes, int]]:
    """A finished run's files and when they were written, but for its status, which may change."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.path.iterdir()
        if path.name not in ("status.json", ".lock")
    }


# -- one run --------------------------------------------------------------------------------------


def test_a_run_is_a_folder(quick: Make, capsys: pytest.CaptureFixture[str]) -> None:
    run = quick(*EACH_EPOCH, "seed=5", "sweep=grid")
    summary = train.train(run)
    folder = folder_of(run)
    assert sorted(path.name for path in folder.path.iterdir()) == FILES
    assert folder.status["state"] == "done"
    assert folder.status["cause"] is None
    assert folder.tracked == [tracker_label(run)]
    config = folder.config
    identity = identify(run)
    assert (config["id"], config["variant"]) == (folder.path.name, identity.variant)
    assert (config["seed"], config["sweep"]) == (5, "grid")
    assert config["names"]["optimizer"] == "adamw"
    assert config["optimizer"]["lr"] == run.optimizer["lr"]
    (attempt,) = folder.provenance["attempts"]
    assert (attempt["device_type"], attempt["precision"]) == ("cpu", "float32")
    assert attempt["threads"] == 1
    assert [row["step"] for row in folder.history()] == [1, 2, 3, 4, 5, 6]
    assert summary == folder.summary
    assert (summary["state"], summary["steps"], summary["epochs"]) == ("done", 6, 2.0)
    assert 0 < summary["test/accuracy"] < 1
    assert summary["best/epoch"] in (1.0, 2.0)
    model = experiment.restore(folder.path).model
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())
    (line,) = capsys.readouterr().out.splitlines()
    accuracy = f"{100 * summary['test/accuracy']:.2f}"
    assert re.fullmatch(
        rf"{folder.path.name}: done, test accuracy {accuracy} %, \d+\.\d s of training", line
    )


def test_the_summary_holds_all_that_tables_need(quick: Make) -> None:
    summary = train.train(quick("trainer.accounting=true"))
    assert set(summary) == {
        "state",
        "memory/peak_mib",
        "flops/sample",
        "flops/optimizer_step",
        "flops/total",
        "flops/per_second",
        "flops/ceiling_per_second",
        "optimizer/seconds_per_step",
        "optimizer/share",
        "utilisation",
        "target/metric",
        "target/value",
        "target/reached",
        "target/step",
        "target/epoch",
        "target/seconds",
        "target/flops",
        "target/joules",
        "target/interpolated",
        "target/resolution",
        "steps",
        "epochs",
        "train/loss",
        "val/loss",
        "val/accuracy",
        "test/loss",
        "test/accuracy",
        "best/epoch",
        "best/val_accuracy",
        "best/test_accuracy",
        "clock/data_seconds",
        "clock/step_seconds",
        "clock/evaluation_seconds",
        "clock/step_evaluation_seconds",
        "clock/compile_seconds",
        "clock/checkpoint_seconds",
        "clock/curvature_seconds",
        "seconds_per_epoch",
        "samples_per_second",
        "parameters",
    }
    assert summary["clock/compile_seconds"] == 0
    assert summary["clock/step_seconds"] > 0
    training = summary["clock/data_seconds"] + summary["clock/step_seconds"]
    assert summary["seconds_per_epoch"] == pytest.approx(training)
    assert summary["samples_per_second"] == pytest.approx(3 * 400 / training)


def test_a_run_that_is_refused_leaves_no_folder(
    quick: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = quick("seed=6")
    with pytest.raises(UserError, match="cuda_graph"):
        train.train(quick("trainer.cuda_graph=true", "trainer.device=cpu"))
    assert not folder_of(late).path.parent.exists()

    def refuse(*_: Any) -> None:
        raise UserError("no")

    monkeypatch.setattr(train, "build_parts", refuse)  # once its folder is held
    with pytest.raises(UserError, match="no"):
        train.train(late)
    assert list(folder_of(late).path.parent.iterdir()) == []


def test_two_seeds_are_two_runs_of_one_variant(quick: Make) -> None:
    # Not one that resumes the other, as with a name that leaves the seed out.
    runs = [quick(f"seed={seed}") for seed in (0, 1)]
    losses = [train.train(run)["train/loss"] for run in runs]
    folders = [folder_of(run) for run in runs]
    assert folders[0].path != folders[1].path
    assert folders[0].config["variant"] == folders[1].config["variant"]
    assert losses[0] != losses[1]
    assert all(len(folder.provenance["attempts"]) == 1 for folder in folders)


def test_the_same_run_elsewhere_has_the_same_bits(
    quick: Make, assert_same: Same, tmp_path: Path
) -> None:
    first = quick("model=mlp", "optimizer=muon")
    second = quick("model=mlp", "optimizer=muon", f"runs_dir={tmp_path / 'elsewhere'}")
    torch.rand(7)  # whatever was drawn before
    for run in (first, second):
        train.train(run)
    one, two = folder_of(first), folder_of(second)
    assert one.path.name == two.path.name
    assert_same(one.load_checkpoint(), two.load_checkpoint())
    assert one.history() == two.history()


def test_noise_has_a_seed_of_its_own(quick: Make, parts: Any) -> None:
    # Dropout would otherwise go on with what the initialisation left over of its stream.
    for seed in (0, 1):
        run = quick("~model.hidden", "model._target_=bench_test_parts.NoisyNet", f"seed={seed}")
        parts.NoisyNet.seeds.clear()
        train.train(run)
        assert set(parts.NoisyNet.seeds) == {derive(seed, "noise")}


def test_bf16_on_a_cpu(quick: Make) -> None:
    run = quick("trainer.precision=bf16")
    summary = train.train(run)
    assert summary["state"] == "done"
    assert folder_of(run).provenance["attempts"][0]["precision"] == "bf16"
    assert summary["train/loss"] != train.train(quick())["train/loss"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_is_bf16_and_channels_last_on_a_gpu(quick: Make) -> None:
    run = quick("trainer.device=auto", "trainer.epochs=4", "trainer.batch_size=64")
    summary = train.train(run)
    assert summary["test/accuracy"] > 0.5
    (attempt,) = folder_of(run).provenance["attempts"]
    assert (attempt["device_type"], attempt["precision"]) == ("cuda", "bf16")
    assert summary["cuda_graph"] is True
    assert attempt["device"] == torch.cuda.get_device_name(0)


# -- trackers -------------------------------------------------------------------------------------


def test_the_tracker_is_told_all_of_it_after_the_folder(watched: Make, parts: Any) -> None:
    run = watched(*EACH_EPOCH, "trainer.checkpoint_every=2", "sweep=grid")
    summary = train.train(run)
    calls = parts.Watcher.calls
    history = folder_of(run).history()
    assert [call[0] for call in calls] == ["start", *["log"] * 5, "finish"]
    logs = [call[1:] for call in calls if call[0] == "log"]
    assert [len(told) for told, _ in logs] == [2, 3, 4, 6, 6]
    for told, written in logs:
        assert told == written == history[: len(told)]
    assert calls[-1] == ("finish", summary)
    info = parts.Watcher.info
    assert (info.id, info.sweep) == (folder_of(run).path.name, "grid")
    assert info.directory == Path(run.runs_dir)
    assert info.config["provenance"] == folder_of(run).provenance["attempts"][0]
    rest = {key: value for key, value in info.config.items() if key != "provenance"}
    assert rest == folder_of(run).config


@pytest.mark.parametrize("where", ["start", "log", "finish"])
def test_a_tracker_that_fails_never_stops_the_run_and_is_served_later(
    watched: Make, parts: Any, where: str
) -> None:
    run = watched("trainer.checkpoint_every=1")
    parts.Watcher.fail = {where: ConnectionError("no route")}
    with pytest.warns(
        UserWarning, match=r"tracker stopped \(ConnectionError: no route\)"
    ) as caught:
        summary = train.train(run)
    assert len([w for w in caught if "tracker stopped" in str(w.message)]) == 1
    assert summary["state"] == "done"
    folder = folder_of(run)
    assert folder.status["state"] == "done"
    assert folder.tracked == []
    before = contents(folder)

    with pytest.warns(UserWarning, match="tracker stopped"):  # still out of reach
        train.train(run)
    assert folder.tracked == []

    parts.Watcher.fail, parts.Watcher.calls[:] = {}, []
    assert train.train(run) == summary
    assert folder.status["state"] == "done"
    assert folder.tracked == [tracker_label(run)]
    assert [call[0] for call in parts.Watcher.calls] == ["start", "log", "finish"]
    assert parts.Watcher.calls[1][1] == folder.history()
    assert parts.Watcher.calls[2][1] == summary
    assert parts.Watcher.info.config["provenance"] == folder.provenance["attempts"][0]
    assert contents(folder) == before

    parts.Watcher.calls[:] = []
    train.train(run)
    assert parts.Watcher.calls == []  # sent once
    assert parts.Moody.steps == 3  # and trained once


def test_another_tracker_gets_a_finished_run_too(quick: Make, parts: Any) -> None:
    alone = quick("tracker=none")
    train.train(alone)
    folder = folder_of(alone)
    assert folder.tracked == [tracker_label(alone)]
    weights = (folder.path / "checkpoint.pt").read_bytes()
    other = quick("tracker._target_=bench_test_parts.Watcher")
    assert folder_of(other).path == folder.path
    train.train(other)
    assert [call[0] for call in parts.Watcher.calls] == ["start", "log", "finish"]
    assert folder.tracked == [tracker_label(alone), tracker_label(other)]
    assert (folder.path / "checkpoint.pt").read_bytes() == weights
    parts.Watcher.calls[:] = []
    train.train(alone)
    train.train(other)
    assert parts.Watcher.calls == []


def test_a_diverged_run_is_tracked_as_such(watched: Make, parts: Any) -> None:
    run = watched("optimizer.lr=1e30")
    train.train(run)
    folder = folder_of(run)
    assert folder.status["state"] == "diverged"
    assert folder.tracked == [tracker_label(run)]
    assert folder.status["cause"]
    last_log = [call for call in parts.Watcher.calls if call[0] == "log"][-1]
    assert last_log[1] == folder.history()
    name, summary = parts.Watcher.calls[-1]
    assert (name, summary["state"]) == ("finish", "diverged")


def test_a_failed_run_is_abandoned(watched: Make, parts: Any) -> None:
    run = watched()
    parts.Moody.at = 2
    with pytest.raises(RuntimeError, match="boom"):
        train.train(run)
    assert parts.Watcher.calls == [("start",), ("abandon", True)]
    assert folder_of(run).tracked == []


def test_wandb_has_what_the_folder_has(quick: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = quick("tracker=wandb", "tracker.tags=[one]", "sweep=grid")
    summary = train.train(run)
    folder = folder_of(run)
    assert folder.tracked == [tracker_label(run)]
    (file,) = find_files(Path(run.runs_dir))
    sent = read_file(file)
    assert (sent.id, sent.project, sent.group) == (folder.path.name, "spectral-bench", "grid")
    assert (sent.tags, sent.exit_code) == (["one"], 0)
    assert sent.config == {**folder.config, "provenance": folder.provenance["attempts"][0]}
    assert sent.summary == summary
    own = ("_", "seen/")  # W&B's columns, and those that only its charts need
    rows = [{k: v for k, v in row.items() if not k.startswith(own)} for row in sent.history]
    assert [row["seen/samples"] for row in sent.history] == [400 * row["step"] for row in rows]
    assert rows == folder.history()
    assert json.loads(json.dumps(rows)) == rows


# -- Hydra's task ---------------------------------------------------------------------------------


def test_the_tasks_value_is_the_best_validation_accuracy(
    command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = []
    task = train.task
    monkeypatch.setattr(train, "task", lambda composed: values.append(task(composed)))
    words = ["model=mlp", "model.hidden=[8]", "tracker=none", "trainer.epochs=1"]
    words += ["trainer.batch_size=400", "trainer.device=cpu", "trainer.threads=1", "optimizer=sgd"]
    assert command(*words)[0] == 0
    assert command(*words, "optimizer.lr=1e30", "trainer.log_every=1")[0] == 0
    (folder,) = [p for p in Path("runs").iterdir() if RunFolder(p).status["state"] == "done"]
    assert values == [RunFolder(folder).summary["best/val_accuracy"], None]


def test_torch_says_in_its_own_words_that_memory_is_out() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert kind_of(caught.value) == "out of memory"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA: tried to allocate"), "out of memory"),
        (OSError(12, "Cannot allocate memory"), "out of memory"),
        (RuntimeError("CUDA error: out of memory"), "out of memory"),
        (RuntimeError("shape mismatch"), "exception"),
        (KeyError("out of memory"), "exception"),
    ],
)
def test_kinds(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_the_reason_is_the_last_line_of_a_traceback() -> None:
    assert reason_of(ValueError("first\nsecond")) == "ValueError: first"
    assert reason_of(KeyError()) == "KeyError: "
