"""Runs sent to a server: the real client of W&B against a loopback server with our answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from wandb_server import WandbServer, serving, without_wandb

from analysis.runs import load_history, load_runs
from bench import sync
from bench.errors import UserError
from bench.run_folder import RunFolder
from bench.tracking import RunInfo, WandbTracker

KEY = "beef0123456789cafe42" * 2
ROWS = [
    {"step": step, "epoch": step / 4, "train/loss": 1.0 / step, "lr": 0.1} for step in range(2, 41)
]
SUMMARY = {"state": "done", "test/accuracy": 0.875, "steps": 40, "seconds_per_epoch": 1.0}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    import wandb

    with serving() as made:
        without_wandb(monkeypatch)
        monkeypatch.setenv("WANDB_BASE_URL", made.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield made
        wandb.teardown()


def config(seed: int = 0, sweep: str | None = "grid") -> dict[str, Any]:
    names = {"dataset": "digits", "model": "mlp", "optimizer": "sgd"}
    return {"id": f"digits-mlp-sgd-s{seed}-0123456789", "variant": "v", "seed": seed,
            "sweep": sweep, "names": names, "optimizer": {"lr": 0.1},
            "tracker": {"mode": "offline", "tags": ["small"]}}  # fmt: skip


def run_folder(root: Path, seed: int = 0, state: Any = "done", **more: Any) -> RunFolder:
    content = config(seed, **more)
    folder = RunFolder(root / content["id"])
    folder.path.mkdir(parents=True)
    folder.begin(content, {"device": "cpu", "git": {"commit": "f00", "dirty": False}})
    folder.write_history(ROWS)
    if state != "running":
        folder.finish(state, None, SUMMARY | {"state": state})
    return folder


def told(server: WandbServer, seed: int = 0) -> dict[str, Any]:
    return server.runs["p", config(seed)["id"]]


def call(root: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    code = sync.main([f"runs={root}", "project=p", "entity=lab", *more])
    return code, *capsys.readouterr()


def test_what_is_sent_is_what_the_folder_has(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    run_folder(root), run_folder(root, 1, "diverged"), run_folder(root, 2, "running")
    code, out, err = call(root, capsys)
    assert code == 0, err
    assert out == f"2 runs sent to {server.address}/lab/p, 0 there already, 1 unfinished\n"
    run = told(server)
    assert [run[key] for key in ("displayName", "group", "jobType", "tags", "state")] == [
        "sgd digits/mlp s0", "grid", "train", ["small"], "finished"
    ]  # fmt: skip
    finished = load_runs(root)[lambda runs: runs["state"] != "running"].reset_index(drop=True)
    again = load_runs("wandb:lab/p")
    pd.testing.assert_frame_equal(again, finished[list(again)], check_exact=True)
    assert again["provenance.device"].tolist() == ["cpu", "cpu"]
    for seed in (0, 1):
        run_id = config(seed)["id"]
        pd.testing.assert_frame_equal(
            load_history("wandb:lab/p", run_id), load_history(root, run_id)
        )


def test_curvature_by_layer_is_sent_as_charts_and_as_a_table(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "runs")
    tracker = {"mode": "offline", "tags": ["small"], "job_type": "tune", "x": "tokens"}
    content = config() | {"tracker": tracker, "trainer": {"batch_size": 8},
                          "dataset": {"context_length": 128}}  # fmt: skip
    (folder.path / "config.json").write_text(json.dumps(content))
    rows = [{"step": 0, "epoch": 0.0, "alpha/fc": 0.5, "s/fc": 1.5, "curvature/reliable": 1.0}]
    folder.write_history(rows + ROWS[:2])
    table = pd.DataFrame({"step": [0, 40], "epoch": [0.0, 10.0], "layer": ["fc", "fc"],
                          "alpha": [0.5, np.nan], "reliable": [True, False]})  # fmt: skip
    table.to_parquet(folder.path / "exponents.parquet")
    assert call(tmp_path / "runs", capsys)[0] == 0

    sent = told(server)
    assert sent["jobType"] == "tune"
    assert sent["history"][0]["alpha/fc"] == 0.5
    assert [row["seen/tokens"] for row in sent["history"]] == [0, 2 * 8 * 128, 3 * 8 * 128]
    assert charted_against(sent) == {
        f"{group}/*": "seen/tokens"
        for group in ("train", "val", "test", "alpha", "gamma", "s", "curvature")
    } | {"step/*": "step"}
    said = sent["summary"]["curvature/layers"]
    assert (said["_type"], said["nrows"]) == ("table-file", 2)
    uploaded = json.loads(next(c for name, c in server.files.items() if "curvature/layers" in name))
    assert uploaded["columns"] == list(table)
    assert uploaded["data"] == [[0, 0.0, "fc", 0.5, True], [40, 10.0, "fc", None, False]]
    # Neither the table nor the axes of charts are results.
    sources = (str(tmp_path / "runs"), "wandb:lab/p")
    frames = [load_runs(source) for source in sources]
    pd.testing.assert_frame_equal(*frames, check_exact=True)
    histories = [load_history(source, folder.path.name) for source in sources]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def charted_against(run: dict[str, Any]) -> dict[str, str]:
    """Return the axis of each group of charts, as the client tells W&B (numbered fields)."""
    metrics = run["config"]["_wandb"]["value"]["m"]
    names = [metric.get("1", metric.get("2")) for metric in metrics]
    return {metric["2"]: names[metric["5"] - 1] for metric in metrics if "5" in metric}


def test_nothing_is_sent_twice(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    folder = run_folder(root)
    call(root, capsys)
    rows, asked = list(told(server)["history"]), len(server.asked)
    _, out, _ = call(root, capsys)
    assert out.startswith("0 runs sent")
    assert "1 there already" in out
    assert len(server.asked) == asked
    # Also where the note was lost: the server has the rows, and keeps them once.
    folder.set_status("done")
    _, out, _ = call(root, capsys)
    assert out.startswith("1 runs sent")
    assert told(server)["history"] == rows
    assert len(server.runs) == 1


def test_an_interrupted_upload_goes_on(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    folder = run_folder(root)
    info = RunInfo(folder.path.name, "grid", config(), root)
    begun = WandbTracker(info, project="p", entity="lab", mode="online")
    begun.start()
    begun.log(ROWS[:17])
    begun.abandon(failed=False)
    assert len(told(server)["history"]) == 17
    assert call(root, capsys)[0] == 0
    assert [row["step"] for row in told(server)["history"]] == [row["step"] for row in ROWS]
    assert told(server)["summary"]["test/accuracy"] == 0.875


@pytest.mark.slow
def test_an_unreliable_server_gets_everything(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    run_folder(root)
    server.trouble = 0.3
    assert call(root, capsys)[0] == 0
    assert server.refused > 0
    assert [row["step"] for row in told(server)["history"]] == [row["step"] for row in ROWS]


def test_only_a_sweep_and_one_folder(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    run_folder(root), run_folder(root, 1, sweep="other")
    assert call(root, capsys, "sweep=other")[1].startswith("1 runs sent")
    assert [run_id for _, run_id in server.runs] == [config(1)["id"]]
    assert call(root / config()["id"], capsys)[1].startswith("1 runs sent")
    for argv, message in (
        (["sweep=gird"], "no run folder of sweep 'gird' there"),
        ([f"runs={tmp_path}/no"], "no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            sync.main(argv if argv[0].startswith("runs") else [f"runs={root}", *argv])


def test_a_run_at_work_and_a_server_out_of_reach_are_one_line_each(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    busy, free = run_folder(root), run_folder(root, 1)
    busy.acquire()
    try:
        code, out, err = call(root, capsys)
    finally:
        busy.release()
    assert code == 1
    assert out.startswith("1 runs sent")
    assert f"error: {busy.path}: process " in err
    assert free.tracked == [f"{server.address}/lab/p"]


@pytest.mark.slow
def test_no_key_is_written_anywhere(server: WandbServer, tmp_path: Path) -> None:
    """A planted key: not in a config, a log, a run folder, a cache, nor on the terminal."""
    root = tmp_path / "runs"
    train = [
        sys.executable, "-m", "bench.train", f"runs_dir={root}", "model=mlp", "optimizer=sgd",
        "trainer=debug", "trainer.epochs=1", "tracker.project=p", "tracker.entity=lab",
    ]  # fmt: skip
    environment = {**os.environ, "WANDB_API_KEY": KEY}
    said = ""
    for command in (
        [*train, "tracker.mode=online", "seed=0"],
        [*train, "tracker.mode=offline", "seed=1"],
        [sys.executable, "-m", "bench.sync", f"runs={root}", "project=p", "entity=lab"],
        [sys.executable, "-m", "analysis.tables", "source=wandb:lab/p"],
    ):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    assert {run["state"] for run in server.runs.values()} == {"finished"}
    assert len(server.runs) == 2
    assert "(2/2)" in said
    assert KEY not in said
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 15
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in json.dumps([run["config"] for run in server.runs.values()])
