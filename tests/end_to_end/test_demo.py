"""The demo, short: its output, its idempotence, and its survival of SIGKILL."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pandas as pd
import pytest

from analysis.runs import load_runs

pytestmark = pytest.mark.slow

SHORT = ["trainer.epochs=2", "trainer.threads=1"]
TIMES = ["seconds_per_epoch"]


def table(command, source: str) -> pd.DataFrame:
    done = command("analysis.tables", f"source={source}", "format=csv", "out=table.csv").run()
    assert done.returncode == 0, done.stderr
    return pd.read_csv(command("analysis.tables").folder / "table.csv").drop(columns=TIMES)


def test_demo_trains_once_and_survives_kills(command, tmp_path: Path) -> None:
    calm = command("bench.demo", *SHORT, "runs_dir=calm").run()
    assert calm.returncode == 0, calm.stderr
    runs = load_runs(str(tmp_path / "calm"))
    assert list(runs["state"]) == ["done"] * 15
    for word in ("spectral_newton", "scalar_spectral_adam", "alpha", "gamma", "wandb leet"):
        assert word in calm.stdout

    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "calm").glob("*/checkpoint.pt")}
    again = command("bench.demo", *SHORT, "runs_dir=calm").run()
    assert again.returncode == 0
    assert "15 planned: 15 done" in again.stdout
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())

    times = random.Random(1)
    broken = command("bench.demo", *SHORT, "runs_dir=broken")
    kills = sum(broken.killed_after(times.uniform(4.0, 20.0)) for _ in range(5))
    assert kills >= 2
    final = broken.run()
    assert final.returncode == 0, final.stderr
    expected = table(command, "calm")
    pd.testing.assert_frame_equal(table(command, "broken"), expected)
    pd.testing.assert_frame_equal(table(command, "offline:broken"), expected)


def test_demo_says_what_is_wrong_in_one_line(command, tmp_path: Path) -> None:
    refused = command("bench.demo", "trainer.epochs=0").run()
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "trainer.epochs" in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_installed_elsewhere_finds_configs_and_sweeps(command, tmp_path: Path) -> None:
    """From a working directory that is not the checkout; `--cfg job` composes without running."""
    shown = command("bench.train", "+sweeps=digits", "--cfg", "job").run()
    assert shown.returncode == 0, shown.stderr
    assert "sweep: digits" in shown.stdout


def test_run_folder_is_complete(command, tmp_path: Path) -> None:
    done = command("bench.train", *SHORT, "model=mlp", "seed=7").run()
    assert done.returncode == 0, done.stderr
    (folder,) = (path.parent for path in tmp_path.glob("runs/*/config.json"))
    assert folder.name.startswith("digits-mlp-adamw-s7-")
    provenance = json.loads((folder / "provenance.json").read_text())["attempts"][-1]
    assert {"git", "optimizer_source", "versions", "device"} <= provenance.keys()
    offline = list(tmp_path.glob("runs/wandb/offline-run-*/run-*.wandb"))
    assert [path.stem for path in offline] == [f"run-{folder.name}"]
