"""The same runs from their folders and from W&B's own offline files, written by the real client."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import tables
from analysis.run import wandb_files
from analysis.runs import RunWarning, load_history, load_runs
from analysis.table.build import build_table

Sources = tuple[str, str]


@pytest.fixture(scope="module")
def both(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Return both sources: W&B's files lie inside the runs folder, as they do after a sweep."""
    root: Path = tmp_path_factory.mktemp("work") / "runs"

    def both_ways(config: Any, summary: Any, rows: int = 4) -> None:
        state, history = summary["state"], runs.history(rows)
        runs.folder(root, config, summary, state, history)
        runs.offline(root, config, summary, history, exit_code=int(state == "failed"))

    both_ways(runs.config("adamw", 0, sweep="grid"), runs.summary(1.0))
    both_ways(runs.config("adamw", 1, sweep="grid"), runs.summary(0.8125, **{"best/epoch": 3}))
    both_ways(runs.config("adamw", 2, trainer__grad_clip=1), runs.summary(0.1, "diverged"))
    odd = runs.config("muon", 10, optimizer__lr="auto", optimizer__betas=(0.9, 1.0), sweep="grid")
    both_ways(odd, runs.summary(0.3, nothing=None, huge=1e300, tiny=math.inf, text="é|x"), rows=0)
    both_ways(runs.config("sgd", 0, optimizer__lr=2), {"state": "failed"})
    # Killed: the folder still says running; W&B's log ends somewhere.
    killed = runs.config("sgd", 1, trainer__compile=True)
    runs.folder(root, killed, runs.summary(0.99), "running", runs.history(4))
    log = runs.offline(root, killed, runs.summary(0.99), runs.history(4))
    log.write_bytes(log.read_bytes()[: log.read_bytes().index(b"test/accuracy")])
    # Resumed: two W&B files, the first without a result.
    resumed = runs.config("sgd", 2)
    first = runs.offline(root / "elsewhere" / "wandb", resumed, {}, runs.history(2))
    assert first.is_file()
    both_ways(resumed, runs.summary(0.625), rows=6)
    return str(root), f"offline:{root}"


def test_the_frame_does_not_tell_its_source(both: Sources) -> None:
    folders, files = load_runs(both[0]), load_runs(both[1])
    pd.testing.assert_frame_equal(folders, files, check_exact=True)
    assert folders.to_csv() == files.to_csv()
    assert len(folders) == 7


def test_values_of_the_frame(both: Sources) -> None:
    for source in both:
        table = load_runs(source).set_index("id", drop=False)
        states = table["state"].value_counts().to_dict()
        assert states == {"done": 4, "diverged": 1, "failed": 1, "running": 1}
        odd = table[table["seed"] == 10].iloc[0]
        assert odd["config.optimizer.lr"] == "auto"
        assert odd["config.optimizer.betas"] == "[0.9, 1]"
        assert (odd["huge"], odd["tiny"], odd["text"]) == (1e300, math.inf, "é|x")
        assert "nothing" not in table
        assert "config.trainer.grad_clip" in table
        assert not [name for name in table if "provenance" in name or "_wandb" in name]
        running = table[table["state"] == "running"].iloc[0]
        assert math.isnan(running["test/accuracy"])
        assert table["test/accuracy"].sum() == pytest.approx(1.0 + 0.8125 + 0.1 + 0.3 + 0.625)


def test_the_table_does_not_tell_its_source(both: Sources) -> None:
    options: dict[str, Any] = {"cols": ["dataset"], "metric": "test/accuracy"}
    for form in ("text", "markdown", "csv"):
        texts = {
            tables.render(build_table(load_runs(source), **options), form)
            for source in (*both, *both)  # each built twice
        }
        assert len(texts) == 1


def test_histories_agree_row_for_row(both: Sources, runs: Any) -> None:
    table = load_runs(both[0])
    for run_id, state in zip(table["id"], table["state"], strict=True):
        folder, offline = (load_history(source, run_id) for source in both)
        if state == "running":  # the torn log may lack the last rows, but has no other ones
            folder = folder.iloc[: len(offline)]
        pd.testing.assert_frame_equal(folder, offline, check_exact=True)
    resumed = table[table["test/accuracy"] == 0.625]["id"].item()
    history = load_history(both[1], resumed)
    assert list(history.columns) == ["step", "epoch", "train/loss", "val/accuracy"]
    assert history["step"].tolist() == [0, 10, 20, 30, 40, 50]
    assert history.dtypes.astype(str).tolist() == ["int64", "float64", "float64", "float64"]
    np.testing.assert_array_equal(
        history["val/accuracy"], [np.nan, 1 / 8, np.nan, 3 / 8, np.nan, 5 / 8]
    )


def test_histories_are_whole_where_sampling_would_drop_rows(runs: Any, tmp_path: Path) -> None:
    """W&B's run.history() returns 500 sampled rows in silence."""
    rows = [{"step": i, "epoch": i / 100, "train/loss": 1 / (i + 1)} for i in range(1234)]
    config = runs.config()
    runs.folder(tmp_path, config, runs.summary(0.5), history=rows)
    assert len(load_history(tmp_path, config["id"])) == 1234


def test_history_lines_of_one_step_are_one_row(runs: Any, tmp_path: Path) -> None:
    rows = [{"step": 5, "a": 1}, {"step": 0, "a": 2}, {"step": 5, "b": 3}, {"step": 0, "a": 4}]
    config = runs.config()
    runs.folder(tmp_path, config, history=rows)
    history = load_history(tmp_path, config["id"]).drop(columns="epoch")
    expected = {"step": [0, 5], "a": [4.0, 1.0], "b": [np.nan, 3.0]}
    pd.testing.assert_frame_equal(history, pd.DataFrame(expected))


def test_damaged_logs_are_warned_of_and_shown(both: Sources, runs: Any, tmp_path: Path) -> None:
    good = wandb_files.find_files(Path(both[0]))[0]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / good.name).write_bytes(good.read_bytes())
    (tmp_path / "a" / "run-other.wandb").write_bytes(b"something else")
    content = bytearray(good.read_bytes())
    content[200] ^= 1
    (tmp_path / "run-bad.wandb").write_bytes(content)
    with pytest.warns(RunWarning) as caught:
        table = load_runs(f"offline:{tmp_path}")
    messages = sorted(str(warning.message) for warning in caught)
    assert "run-other.wandb: not a W&B log" in messages[0]
    assert "run-bad.wandb: damaged at byte" in messages[1]
    unreadable = table[table["state"] == "unreadable"]["id"].tolist()
    assert unreadable == ["bad", "other"]
    assert len(table) == 3


def test_a_log_killed_before_it_said_anything_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "run-early.wandb").write_bytes(wandb_files.HEADER)
    row = load_runs(f"offline:{tmp_path}").iloc[0]
    assert (row["id"], row["state"], row["variant"]) == ("early", "running", None)


@pytest.mark.parametrize("source", ["nowhere", "offline:nowhere"])
def test_a_missing_folder_says_how_to_make_runs(source: str) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such folder .*spectral-bench train"):
        load_runs(source)
    with pytest.raises(ValueError, match="no such folder"):
        load_history(source, "x")


def test_an_empty_folder_has_no_runs(tmp_path: Path) -> None:
    assert len(load_runs(tmp_path)) == 0
    assert len(load_runs(f"offline:{tmp_path}")) == 0


def test_history_of_an_unknown_run(both: Sources) -> None:
    for source in both:
        with pytest.raises(
            ValueError, match=r"no (run|offline log of run) 'digits-convnet-nobody'"
        ):
            load_history(source, "digits-convnet-nobody")
