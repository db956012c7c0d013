"""Runs from a server: the real client of W&B against a loopback server with our answers.

It proves how the client is used (pages, no request a run, no history), not what W&B answers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from wandb_server import WandbServer

from analysis import tables
from analysis.run import archive, wandb_server
from analysis.run.frame import RunWarning
from analysis.runs import load_history, load_runs
from bench.run_folder import RunFolder

READING = {"Viewer", "GetDefaultEntity", "ServerFeaturesQuery", "Runs"}


def put(server: WandbServer, config: dict[str, Any], summary: dict[str, Any], **more: Any) -> None:
    """Store a run as W&B does: configs wrapped, whole floats as integers."""
    wrapped = {key: {"value": value} for key, value in config.items()}
    respelt = [
        json.loads(re.sub(r"(\d)\.0\b", r"\1", json.dumps(tree)))
        for tree in (wrapped, summary | {"_step": 5})
    ]
    name = more.pop("name", config["id"])
    fields = {"group": config["sweep"], "tags": config["tracker"]["tags"], **more}
    server.put("project", name, config=respelt[0], summary=respelt[1], **fields)


def eight(runs: Any, server: WandbServer, folders: Path) -> None:
    """The same eight runs on the server and in folders."""
    for seed in range(8):
        config, summary = runs.config(seed=seed, schedule__warmup=1.0), runs.summary(seed / 7)
        config["sweep"] = "grid" if seed < 3 else None
        config["tracker"] = {"mode": "offline", "tags": ["first"] if seed % 2 else []}
        if seed == 6:
            summary = runs.summary(0.0, "diverged")
        if seed == 7:  # killed: W&B says crashed, the run said nothing
            summary = {"test/accuracy": 0.9}
        runs.folder(folders, config, summary, summary.get("state", "running"))
        put(server, config, summary, state="crashed" if seed == 7 else "finished")


def test_pages_of_configs_and_summaries_are_all_that_is_asked(
    server: WandbServer, runs: Any, tmp_path: Path
) -> None:
    server.largest_page = 3
    eight(runs, server, tmp_path / "runs")
    table = load_runs("wandb:lab/project")
    pd.testing.assert_frame_equal(table, load_runs(tmp_path / "runs"), check_exact=True)
    assert table["state"].tolist() == ["done"] * 6 + ["diverged", "running"]
    assert server.asked.count("Runs") == 3 + 3  # three pages of the list, three of whole runs
    assert set(server.asked) <= READING


def test_when_a_run_began_is_the_same_from_folder_archive_and_server(
    server: WandbServer, runs: Any, tmp_path: Path
) -> None:
    """That of the first attempt; W&B keeps the latest one's provenance alone."""
    root, began = tmp_path / "runs", "2026-01-02T03:04:05+00:00"
    for seed, attempts in enumerate(
        [[{"started": began}], [{"started": began}, {"started": "2026-02-01T00:00:00+00:00"}], [{}]]
    ):
        config, summary = runs.config(seed=seed), runs.summary(0.5)
        folder = RunFolder(root / config["id"])
        folder.path.mkdir(parents=True)
        for attempt in attempts:
            folder.begin(config, dict(attempt))
        folder.finish("done", None, summary)
        latest = folder.provenance["attempts"][-1]
        put(server, {**config, "provenance": latest}, summary)
    table = load_runs(root)
    assert table["started"].tolist() == [began, began, None]
    archive.write(tmp_path / "all.parquet", archive.gather(root))
    for source in (tmp_path / "all.parquet", "wandb:lab/project"):
        pd.testing.assert_frame_equal(table, load_runs(source), check_exact=True)


def test_the_second_time_only_changes_are_asked_for(
    server: WandbServer, runs: Any, tmp_path: Path
) -> None:
    eight(runs, server, tmp_path / "runs")
    first = load_runs("wandb:lab/project")
    server.asked.clear()
    pd.testing.assert_frame_equal(load_runs("wandb:lab/project"), first, check_exact=True)
    assert server.asked.count("Runs") == 1
    changed = runs.config(seed=7, schedule__warmup=1.0)
    put(server, changed, runs.summary(0.99), state="finished")
    del server.runs["project", runs.config(seed=0, schedule__warmup=1.0)["id"]]
    server.asked.clear()
    server.variables.clear()
    again = load_runs("wandb:lab/project")
    assert again["seed"].tolist() == list(range(1, 8))  # a deleted run is forgotten
    assert again.iloc[-1]["test/accuracy"] == 0.99
    assert server.asked.count("Runs") == 2
    asked = [json.loads(v["filters"]) for v in server.variables if "filters" in v]
    assert asked == [{}, {"name": {"$in": [changed["id"]]}}]
    server.asked.clear()
    pd.testing.assert_frame_equal(load_runs("wandb:lab/project", refresh=False), again)
    assert server.asked == []


def test_a_thousand_unchanged_runs_cost_one_listing(server: WandbServer, runs: Any) -> None:
    for seed in range(1000):
        put(server, runs.config(seed=seed), runs.summary(0.5))
    assert len(load_runs("wandb:lab/project")) == 1000
    server.asked.clear()
    assert len(load_runs("wandb:lab/project")) == 1000
    assert server.asked.count("Runs") == 1
    assert len(server.asked) <= 2  # with the client's login


def test_filters_are_the_servers_work(server: WandbServer, runs: Any, tmp_path: Path) -> None:
    folders = tmp_path / "runs"
    eight(runs, server, folders)
    tagged, in_state = {"$in": ["first", "x"]}, "summary_metrics.state"
    cases: list[tuple[dict[str, Any], dict[str, Any], int]] = [
        ({"sweep": "grid"}, {"group": "grid"}, 3),
        ({"tags": ["first", "x"]}, {"tags": tagged}, 4),
        (
            {"sweep": "grid", "tags": ["first", "x"], "states": ["done"]},
            {"group": "grid", "tags": tagged, in_state: {"$in": ["diverged", "done"]}},
            1,
        ),
        ({"states": ["done"]}, {in_state: {"$in": ["diverged", "done"]}}, 6),
        ({"states": ["diverged"], "tags": ["first", "x"]},
         {"tags": tagged, in_state: {"$in": ["diverged", "done"]}}, 0),
        ({"states": ["running", "diverged"]}, {}, 2),
    ]  # fmt: skip
    for chosen, asked, count in cases:
        server.variables.clear()
        found = load_runs("wandb:lab/project", **chosen)
        assert len(found) == count
        pd.testing.assert_frame_equal(found, load_runs(folders, **chosen), check_exact=True)
        listing = next(v for v in server.variables if "filters" in v)
        assert json.loads(listing["filters"]) == asked
    with pytest.raises(ValueError, match=r'no runs with {"group": "gird"} there'):
        load_runs("wandb:lab/project", sweep="gird")
    # What a filter left out is still known.
    server.asked.clear()
    load_runs("wandb:lab/project")
    assert len(load_runs("wandb:lab/project", refresh=False)) == 8
    assert len(load_runs("wandb:lab/project", sweep="grid", refresh=False)) == 3


def test_a_published_comparison_is_no_run(server: WandbServer, runs: Any) -> None:
    put(server, runs.config(), runs.summary(0.9))
    server.put("project", "abc", jobType="report", config={"metric": {"value": "test/accuracy"}})
    assert load_runs("wandb:lab/project")["id"].tolist() == [runs.config()["id"]]


def test_attempts_of_one_run_are_one_run(server: WandbServer, runs: Any) -> None:
    config = runs.config()
    put(server, config, {"steps": 90.0}, name="attempt-1", state="crashed")
    put(server, config, runs.summary(0.9, steps=50), name="attempt-2")
    put(server, config, {}, name="attempt-3", state="crashed")
    table = load_runs("wandb:lab/project")
    assert table["id"].tolist() == [config["id"]]
    assert table["test/accuracy"].tolist() == [0.9]


def test_an_id_that_leads_elsewhere_is_left_out(server: WandbServer, runs: Any) -> None:
    put(server, runs.config(), runs.summary(0.9))
    put(server, {**runs.config(seed=1), "id": "../elsewhere"}, runs.summary(0.9), name="abc")
    with pytest.warns(RunWarning, match="'../elsewhere' is no name of a run; it is left out"):
        table = load_runs("wandb:lab/project")
    assert table["id"].tolist() == [runs.config()["id"]]


def test_an_unreliable_server_gives_the_whole_table(
    server: WandbServer, runs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three requests in ten fail: by 429, by 500, by a dropped connection."""
    monkeypatch.setattr(wandb_server, "_PAUSES", (0.01,) * 12)
    monkeypatch.setattr(wandb_server, "_WHOLE", 2)
    server.largest_page, server.trouble = 2, 0.3
    eight(runs, server, tmp_path / "runs")
    table = load_runs("wandb:lab/project")
    assert server.refused > 0
    pd.testing.assert_frame_equal(table, load_runs(tmp_path / "runs"), check_exact=True)


def test_every_row_of_a_history_is_read(server: WandbServer, runs: Any, tmp_path: Path) -> None:
    config, rows = runs.config(), runs.history(1500)
    logged = [{**row, "_step": row["step"], "_timestamp": 1.0} for row in rows]
    put(server, config, runs.summary(0.9), history=logged)
    runs.folder(tmp_path / "runs", config, runs.summary(0.9), history=rows)
    found = load_history("wandb:lab/project", config["id"])
    pd.testing.assert_frame_equal(found, load_history(tmp_path / "runs", config["id"]))
    assert len(found) == 1500  # W&B's history() would give 500 of them
    assert not {"RunFullHistory", "RunSampledHistory"} & set(server.asked)
    with pytest.raises(ValueError, match="wandb:lab/project: run 'nobody': "):
        load_history("wandb:lab/project", "nobody")


def test_three_sources_one_table_to_the_byte(
    server: WandbServer, runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders, logs = tmp_path / "runs", tmp_path / "logs"
    for name in ("adamw", "muon"):
        for seed in range(3):
            config = runs.config(name, seed, sweep="grid")
            summary = runs.summary(0.9 + seed / 100 + (name == "muon") / 50)
            runs.folder(folders, config, summary)
            runs.offline(logs, config, summary)
            put(server, config, summary)
    for form in ("text", "markdown", "csv"):
        outputs = set()
        for source in (folders, f"offline:{logs}", "wandb:lab/project", "wandb:lab/project"):
            tables.main([f"source={source}", "sweep=grid", "baseline=adamw", f"format={form}"])
            outputs.add(capsys.readouterr().out)
        assert len(outputs) == 1, outputs


def test_what_the_folder_and_wandb_disagree_about_is_listed(
    server: WandbServer, runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eight(runs, server, tmp_path / "runs")
    lost = runs.config(seed=1, schedule__warmup=1.0)["id"]
    del server.runs["project", lost]
    tables.main([f"source={tmp_path / 'runs'}", "also=wandb:lab/project"])
    err = capsys.readouterr().err.splitlines()
    assert err[:-1] == [f"only in {tmp_path / 'runs'}: {lost} (done)"]
    tables.main([f"source={tmp_path / 'runs'}", "also=wandb:lab/project", "sweep=grid"])
    assert lost in capsys.readouterr().err
    tables.main(["source=wandb:lab/project", "also=wandb:lab/project"])
    assert "tell the same of 7 runs" in capsys.readouterr().err


def test_an_unknown_project_is_one_line(server: WandbServer) -> None:
    with pytest.raises(ValueError, match=r"wandb:lab/nothing: .*offline:<folder>") as caught:
        load_runs("wandb:lab/nothing")
    assert "\n" not in str(caught.value)
    assert server.asked.count("Runs") == 1  # a refusal is not asked for again
    with pytest.raises(ValueError, match="nothing in the cache; ask with refresh=true first"):
        load_runs("wandb:lab/nothing", refresh=False)


def test_without_a_login_one_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    try:
        with pytest.raises(ValueError, match=r"wandb:lab/project: .*wandb login") as caught:
            load_runs("wandb:lab/project")
    finally:
        wandb.teardown()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["wandb:project", "wandb:/project", "wandb:a/b/c", "wandb:"])
def test_a_project_is_named_with_its_entity(source: str) -> None:
    with pytest.raises(ValueError, match="write wandb:<entity>/<project>"):
        load_runs(source)
