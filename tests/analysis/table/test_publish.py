"""The comparison on W&B, written by the real client offline and read back from its log."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from analysis import tables
from analysis.run.wandb_files import find_files, read_file
from analysis.runs import load_runs
from analysis.table.publish import _COLUMNS
from bench.errors import UserError


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    return tmp_path


def test_the_comparison_is_a_table_and_an_artifact(
    offline: Path, runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("adamw", "muon"):
        for seed in range(3):
            accuracy = 0.9 + 0.01 * (name == "muon") + (seed + (name == "muon")) / 1000
            runs.folder(offline / "runs", runs.config(name, seed, sweep="grid"),
                        runs.summary(accuracy))  # fmt: skip
    arguments = ["source=runs", "sweep=grid", "baseline=adamw", "publish=lab/p"]
    tables.main(arguments)
    assert "published to lab/p" in capsys.readouterr().err
    (log,) = find_files(offline / "wandb")
    told = runs.written(log) and read_file(log)
    assert (told.project, told.job_type) == ("p", "report")
    assert told.config["metric"] == "test/accuracy"
    (stored,) = log.parent.rglob("media/table/*.json")
    content = json.loads(stored.read_text())
    assert content["columns"] == list(_COLUMNS)
    by_row = {row[0]: dict(zip(_COLUMNS, row, strict=True)) for row in content["data"]}
    assert by_row["muon"]["n"] == 3
    assert by_row["muon"]["difference"] == pytest.approx(0.011)
    assert len(by_row["adamw"]["run_ids"].split()) == 3
    assert by_row["adamw"]["verdict"] is None
    assert b"comparison-grid" in log.read_bytes()
    assert b"comparison.tex" in log.read_bytes()
    assert load_runs(f"offline:{offline / 'wandb'}").empty  # a report is no run


def test_a_project_is_named_with_its_entity(offline: Path, runs: Any) -> None:
    runs.folder(offline / "runs", runs.config(), runs.summary(0.9))
    with pytest.raises(UserError, match="publish=p: write <entity>/<project>"):
        tables.main(["source=runs", "publish=p"])
