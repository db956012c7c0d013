"""Grids: all is checked first, what is done is skipped, one failure takes nothing else along."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import sweep
from bench.errors import UserError
from bench.identity import identify, tracker_label
from bench.launch import manifest
from bench.launch.launcher import LocalLauncher
from bench.run_folder import RunFolder

Command = Callable[..., tuple[int, str, str]]

QUICK = [
    "-m",
    "model=mlp",
    "model.hidden=[8]",
    "tracker=none",
    "trainer.epochs=1",
    "trainer.batch_size=600",
    "trainer.device=cpu",
    "trainer.threads=1",
]
# SparseAdam takes the same options, and fails in its first step: no gradient is sparse.
FAILING = [
    "~optimizer.weight_decay",
    "optimizer._target_=torch.optim.AdamW,torch.optim.SparseAdam",
    "seed=0,1",
]


def states(runs: Path) -> dict[tuple[str, int], str]:
    """State of each run folder, by optimizer class and seed."""
    found = {}
    for path in runs.glob("*/config.json"):
        folder = RunFolder(path.parent)
        name = folder.config["optimizer"]["_target_"].rpartition(".")[2]
        found[name, folder.config["seed"]] = folder.status["state"]
    return found


def test_a_grid_is_every_combination_and_runs_once(command: Command, tmp_path: Path) -> None:
    words = [*QUICK, "optimizer=sgd,adamw", "seed=0,1"]
    status, out, err = command(*words)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "4 planned: 4 missing"
    assert [line.rpartition("-")[0] for line in lines[1:]] == [
        "digits-mlp-sgd-s0",
        "digits-mlp-sgd-s1",
        "digits-mlp-adamw-s0",
        "digits-mlp-adamw-s1",
    ]
    expected = {(name, seed): "done" for name in ("SGD", "AdamW") for seed in (0, 1)}
    assert states(tmp_path / "runs") == expected

    status, again, err = command(*words)
    assert (status, err) == (0, "")
    assert again == "4 planned: 4 done\n"


def test_a_launch_in_one_process_can_be_looked_at_from_elsewhere(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, err = command(*QUICK, "optimizer=sgd", "seed=0,1", "pack=2", f"runs_dir={tmp_path}")
    assert status == 0
    assert "pack=2 is for GPUs; on CPU give workers=N" in err
    sweep.main(["status", f"runs_dir={tmp_path}"])
    assert "2 planned: 2 done" in capfd.readouterr().out
    process = manifest.find(tmp_path).submitted["process"]
    assert process["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("given", "count", "workers", "pack", "expected"),
    [
        ("", 0, None, 1, [None]),
        ("", 2, None, 1, ["0", "1"]),
        ("", 2, 1, 2, ["0", "0"]),
        ("", 8, 2, 1, ["0", "1"]),
        ("3", 1, None, 2, ["3", "3"]),  # the user's own choice
        ("3,5,7", 2, None, 1, ["3", "5"]),  # of which one is not there
    ],
)
def test_which_gpu_each_worker_has(
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    count: int,
    workers: int | None,
    pack: int,
    expected: list[str | None],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    places = LocalLauncher(workers=workers, pack=pack)._places()
    assert [place.get("CUDA_VISIBLE_DEVICES") for place in places] == expected
    threads = {place.get("OMP_NUM_THREADS") for place in places}
    assert threads == {None if len(expected) == 1 else str(8 // len(expected))}


def test_runs_for_cpu_share_it_where_there_are_gpus_too(
    monkeypatch: pytest.MonkeyPatch, quick: Any
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    launcher, trainer = LocalLauncher(workers=3, pack=2), quick().trainer
    assert ["CUDA_VISIBLE_DEVICES" in place for place in launcher._places([trainer])] == [False] * 3
    both = [trainer, trainer.model_copy(update={"device": "auto"})]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in launcher._places(both)] == list("001122")
    pairs = [trainer.model_copy(update={"device": "cuda", "devices": 2})]
    found = [place["CUDA_VISIBLE_DEVICES"] for place in launcher._places(pairs)]
    assert found == ["0,1", "0,1", "2,3", "2,3"]


def test_a_gpu_by_number_is_refused_where_each_worker_has_its_own(
    monkeypatch: pytest.MonkeyPatch, command: Command, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    words = [word for word in QUICK if not word.startswith("trainer.device")]
    status, _, err = command(*words, "trainer.device=cuda:1", "seed=0,1")
    assert (status, err.count("\n")) == (2, 1)
    assert "trainer.device=cuda:1: each worker has a GPU of its own" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fail_fast_after=0"], "fail_fast_after: 0 is no number of them; give 1 or more"),
        (["workers=two"], "workers: two is no number of them; give 1 or more"),
        (["pack=-1"], "pack: -1 is no number of them; give 1 or more"),
        (["retry=ooms"], "retry=ooms: not possible; did you mean oom?"),
    ],
)
def test_impossible_launch_options_are_one_line(
    command: Command, words: list[str], says: str
) -> None:
    status, _, err = command(*QUICK, *words)
    assert (status, err.count("\n")) == (2, 1)
    assert says in err


def test_a_launch_that_the_cluster_refuses_leaves_none_behind(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without SLURM
    status, out, err = command(*QUICK, "hydra/launcher=slurm")
    assert (status, out) == (2, "1 planned: 1 missing\n")
    assert "SLURM does not answer" in err
    with pytest.raises(UserError, match="no launch here"):
        manifest.find(tmp_path / "runs")


def test_later_jobs_do_not_reuse_the_first_ones_seed(command: Command, tmp_path: Path) -> None:
    assert command(*QUICK, "optimizer=sgd", "seed=3,4")[0] == 0
    folders = [RunFolder(path.parent) for path in (tmp_path / "runs").glob("*/config.json")]
    assert sorted(folder.config["seed"] for folder in folders) == [3, 4]
    checkpoints = [folder.load_checkpoint() for folder in folders]
    weights = [checkpoint["model"]["head.weight"] for checkpoint in checkpoints if checkpoint]
    assert len(weights) == 2
    assert not torch.equal(weights[0], weights[1])
    assert len({folder.summary["train/loss"] for folder in folders}) == 2


def test_the_plan_counts_states_and_duplicates_once(
    command: Command, tmp_path: Path, quick: Any
) -> None:
    words = [*QUICK, "optimizer=sgd"]
    assert command(*words, "seed=0")[0] == 0
    for seed, state in ((1, "running"), (2, "failed"), (3, "diverged")):
        overrides = [word for word in words[1:] if word != "-m"]
        run = quick(*overrides, f"seed={seed}", f"runs_dir={tmp_path / 'runs'}")
        folder = RunFolder(tmp_path / "runs" / identify(run).id)
        folder.path.mkdir(parents=True)
        folder.set_status(state)  # type: ignore[arg-type]
        if state == "diverged":
            folder.finish("diverged", "training loss is nan at step 1", {"state": state})
            folder.set_status("diverged", "training loss is nan at step 1", [tracker_label(run)])
    status, out, err = command(*words, "seed=0,1,2,3,4,4")
    assert (status, err) == (0, "")
    plan, *lines = out.splitlines()
    assert plan == (
        "5 planned: 1 done, 1 diverged, 1 interrupted, 1 missing, 1 failed (1 exception)"
    )
    assert sum(": done, test accuracy" in line for line in lines) == 3  # 1, 2 and 4, each once


def test_one_failing_run_takes_no_other_along(command: Command, tmp_path: Path) -> None:
    status, out, err = command(*QUICK, *FAILING)
    assert status == 1
    assert out.splitlines()[0] == "4 planned: 4 missing"
    assert states(tmp_path / "runs") == {
        ("AdamW", 0): "done",
        ("AdamW", 1): "done",
        ("SparseAdam", 0): "failed",
        ("SparseAdam", 1): "failed",
    }
    lines = err.splitlines()
    assert "Traceback" not in err
    assert "2 of 4 runs failed:" in lines
    named = lines[lines.index("2 of 4 runs failed:") + 1 :]
    assert len(named) == 6  # every failure: its overrides and why, where its log is, the command
    for seed in (0, 1):
        first, log, again = named[3 * seed : 3 * seed + 3]
        assert first.startswith(f"  optimizer._target_=torch.optim.SparseAdam seed={seed}: ")
        assert "exception: RuntimeError: SparseAdam does not support dense gradients" in first
        assert "Traceback" in Path(log.partition("log:")[2].strip()).read_text()
        words = shlex.split(again.partition("again:")[2])
        assert words[:3] == ["spectral-bench", "train", "-m"]
        status, out, err = command(*words[2:])
        assert status == 1
        assert out.startswith("1 planned: 1 failed (1 exception)\nfailed before:\n  ")


def test_fail_fast_starts_no_more(command: Command, tmp_path: Path) -> None:
    words = [*QUICK, *FAILING[:1], "optimizer._target_=torch.optim.SparseAdam", "seed=0,1,2,3"]
    status, _, err = command(*words, "fail_fast_after=2")
    assert status == 1
    assert "stopped after 2 failures" in err
    assert "2 of 4 runs failed:" in err
    assert len(states(tmp_path / "runs")) == 2


@pytest.mark.parametrize(
    ("retry", "ran"),
    [("none", {1}), ("oom", {2}), ("timeout", {3}), ("failed", {2, 3}), ("all", {1, 2, 3})],
)
def test_retry_chooses_among_what_is_not_done(
    command: Command, tmp_path: Path, quick: Any, retry: str, ran: set[int]
) -> None:
    words = [*QUICK, "optimizer=sgd"]
    for seed, kind in ((2, "out of memory"), (3, "timeout")):
        run = quick(*words[1:], f"seed={seed}", f"runs_dir={tmp_path / 'runs'}")
        folder = RunFolder(tmp_path / "runs" / identify(run).id)
        folder.path.mkdir(parents=True)
        folder.set_status("failed", "why", kind=kind)  # type: ignore[arg-type]
    status, out, _ = command(*words, "seed=1,2,3", f"retry={retry}")
    lines = out.splitlines()
    assert lines[0] == "3 planned: 1 missing, 2 failed (1 out of memory, 1 timeout)"
    done = {int(line.partition("-sgd-s")[2][0]) for line in lines if ": done," in line}
    assert done == ran
    assert status == (0 if ran >= {2, 3} else 1)  # a failure that is left is still one


@pytest.mark.slow
def test_a_failing_grid_ends_its_process_with_status_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.train", *QUICK, *FAILING[:2]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.endswith("failed:")] == [
        "1 of 2 runs failed:"
    ]
    assert "SparseAdam does not support dense gradients" in done.stderr
    assert states(tmp_path / "runs") == {("AdamW", 0): "done", ("SparseAdam", 0): "failed"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["seed=0,1,-1"], "seed: input should be greater than or equal to 0, not -1 (in: "),
        (["seed=-1,-2,-3"], "seed=-1); 2 more: see spectral-bench plan"),
        (["optimizer=sgd,adamx"], "optimizer=adamx: there is no such optimizer"),
        (["trainer.batch_size=64,5000"], "trainer.batch_size: batch size 5000 does not fit"),
        (["dataset=digits,cifar10", "~model.hidden"], "spectral-bench prepare dataset=cifar10"),
        (["optimizer=sgd,scalar_spectral_adam"], "needs exponents"),
    ],
)
def test_a_mistake_in_the_last_combination_stops_before_any_work(
    command: Command, tmp_path: Path, words: list[str], says: str
) -> None:
    status, out, err = command(*QUICK, *words)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert says in err
    assert states(tmp_path / "runs") == {}
    assert not (tmp_path / "runs").exists()


def test_a_grid_that_is_told_to_stop_checkpoints_at_the_very_step(
    command: Command, tmp_path: Path, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``bench.sweep cancel``, or by whoever shuts the machine down."""

    def step(optimizer: torch.optim.SGD, closure: Any = None) -> Any:
        parts.Moody.steps += 1
        if parts.Moody.steps == 3:  # the first of the second run
            signal.raise_signal(signal.SIGTERM)
        return torch.optim.SGD.step(optimizer, closure)

    monkeypatch.setattr(parts.Moody, "step", step)
    before = signal.getsignal(signal.SIGTERM)
    words = [*QUICK, "optimizer=sgd", "optimizer._target_=bench_test_parts.Moody", "seed=0,1,2"]
    words += ["trainer.accounting=false"]
    status, _, err = command(*words)
    assert status == 130
    assert "interrupted: the same command goes on where this one stopped" in err
    assert states(tmp_path / "runs") == {("Moody", 0): "done", ("Moody", 1): "running"}
    (stopped,) = (tmp_path / "runs").glob("*-s1-*")
    checkpoint = RunFolder(stopped).load_checkpoint()
    assert checkpoint is not None
    assert checkpoint["step"] == 1
    assert signal.getsignal(signal.SIGTERM) is before
    status, out, err = command(*words)
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "3 planned: 1 done, 1 interrupted, 1 missing"


def test_an_interrupted_grid_stops_at_once(command: Command, tmp_path: Path, parts: Any) -> None:
    parts.Moody.at, parts.Moody.error = 4, KeyboardInterrupt()
    words = [*QUICK, "optimizer=sgd", "optimizer._target_=bench_test_parts.Moody", "seed=0,1,2"]
    words += ["trainer.accounting=false"]  # which makes steps of its own, on a copy
    status, out, err = command(*words)
    assert status == 130
    assert "interrupted: the same command goes on where this one stopped" in err
    assert "Traceback" not in err
    assert states(tmp_path / "runs") == {("Moody", 0): "done", ("Moody", 1): "running"}
    parts.Moody.at = None
    status, out, err = command(*words)
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "3 planned: 1 done, 1 interrupted, 1 missing"
    assert set(states(tmp_path / "runs").values()) == {"done"}
