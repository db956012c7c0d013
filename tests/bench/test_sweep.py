"""The command line of bench.sweep."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cpu_time
import pytest

from bench import config, sweep
from bench.errors import UserError
from bench.identity import identify, tracker_label
from bench.launch.grid import Composer, Job, combinations, master_config
from bench.launch.status import run_folder

QUICK = ["model=mlp", "model.hidden=[8]", "tracker=none", "trainer.epochs=1"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_plan_shows_everything_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.main(["plan", *QUICK, "seed=0,0,1,-1", "trainer.batch_size=64,5000"])
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ["grid of 8: seed=0,1,-1 trainer.batch_size=64,5000", "4 planned: 4 missing"]
    invalid = [line for line in out if line.startswith("invalid: ")]
    assert ["seed=-1" in line for line in invalid] == [True, False]
    assert ["does not fit" in line for line in invalid] == [False, True]
    assert all("(2 runs, the first: " in line for line in invalid)
    assert sum(line.startswith("duplicate: ") and "2 times" in line for line in out) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["-m", "--multirun"])
def test_plan_takes_the_words_of_train(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.main(["plan", word, *QUICK, "seed=0,1"])
    assert "2 planned: 2 missing" in capsys.readouterr().out


def test_a_plan_of_which_nothing_can_run_anywhere_is_an_error() -> None:
    with pytest.raises(UserError, match="2 combinations cannot run"):
        sweep.main(["plan", *QUICK, "seed=-1,-2"])


def test_plan_is_that_of_the_launch_that_its_words_are_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_SHOWN", 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    run = config.load([*QUICK, "seed=1", f"runs_dir={tmp_path / 'runs'}"])
    folder = run_folder(run, identify(run).id)
    folder.path.mkdir(parents=True)
    folder.set_status("failed", "MemoryError", kind="out of memory")
    there = ["hydra/launcher=slurm", "trainer.device=cuda", "retry=oom"]
    sweep.main(["plan", *QUICK, *there, "seed=0,1,2,0,2,1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "3 planned: 2 missing, 1 failed (1 out of memory)"
    assert [line.partition(": asked")[0] for line in lines[2:5]] == [
        "duplicate: seed=0",
        "duplicate: seed=1",
        "... and 1 more",
    ]
    assert "hydra/launcher=slurm hydra.launcher.retry=oom" in lines[-2]
    assert lines[-1] == "to do: 1, no estimate: no finished run is like these 1"


def test_help_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    sweep.main([])
    assert "spectral-bench plan" in capsys.readouterr().out
    with pytest.raises(UserError, match="plna: there is no such command; did you mean plan"):
        sweep.main(["plna"])


@pytest.mark.slow
def test_five_thousand_finished_runs_are_planned_in_seconds(loader: Any, tmp_path: Path) -> None:
    """Of CPU time, most of it that of importing torch: what a busy machine does not stretch far."""
    words = [*QUICK, "optimizer=sgd,adamw", "seed=range(2500)"]
    master = master_config(loader, words)
    composer = Composer(loader, master)
    for overrides in combinations(master):
        job = composer.job(overrides)
        assert isinstance(job, Job)
        folder = run_folder(job.config, job.identity.id)
        folder.path.mkdir(parents=True)
        status = {"state": "done", "tracked": [tracker_label(job.config)]}
        (folder.path / "status.json").write_text(json.dumps(status))
    slow = cpu_time.slowness(tmp_path)
    start = time.monotonic()
    out, seconds = cpu_time.run(["-m", "bench.sweep", "plan", *words], tmp_path)
    wall = time.monotonic() - start
    print(f"planning 5,000: {seconds:.1f} s of CPU, {wall:.1f} s in all, {slow:.2f} times slow")
    assert out.endswith("seed=0,1,2,...,2499 (2500 values)\n5000 planned: 5000 done\n")
    assert seconds < 7.5 * slow  # within 5 s on a quiet machine (docs/sweeps.md); CPU time is noisy
