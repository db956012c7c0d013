"""The W&B Report of a published table, by the real packages against a server on loopback.

It proves what is sent, and that the groups it asks for are variants; not what W&B draws of it.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from measured_tables import directions, write_run
from wandb_server import WandbServer

from analysis import report, tables
from analysis.runs import load_runs

pytest.importorskip("wandb_workspaces")
Tree = dict[str, Any]
CURVES = ["test/accuracy", "val/loss", "test/loss", "train/loss"]


@pytest.fixture
def source(server: WandbServer, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of two optimizers (one at two rates) and three seeds, in folders and on the server."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for optimizer, rate in (("adamw", 1e-3), ("adamw", 1e-2), ("muon", 1e-3)):
        for seed in range(3):
            config = runs.config(optimizer, seed, sweep="grid", optimizer__lr=rate)
            summary = runs.summary(0.9 + (seed + 5 * (optimizer == "muon")) / 100)
            runs.folder(tmp_path / "runs", config, summary)
            wrapped = {key: {"value": value} for key, value in config.items()}
            server.put("p", config["id"], config=wrapped, summary=summary, group="grid")
    return tmp_path / "runs"


def publish(source: Path, *more: str) -> int:
    arguments = [f"source={source}", "sweep=grid", "baseline=muon", "publish=lab/p", *more]
    return tables.main(arguments)


def of_type(server: WandbServer, kind: str) -> list[Tree]:
    return [view for view in server.views.values() if view["type"] == kind]


def blocks(server: WandbServer, kind: str) -> list[Tree]:
    (written,) = of_type(server, "runs")
    return [one for one in json.loads(written["spec"])["blocks"] if one["type"] == kind]


def value_at(config: Tree, path: str) -> Any:
    found: Any = config
    for key in path.split("."):
        found = found[key]
    return found


def compared_by(filters: Tree) -> dict[str, Any]:
    """Return what the filters compare, by section and name; all must hold."""
    assert filters["filterFormat"] == "filterV2"
    compared = {}
    for one in filters["filters"]:
        assert one["op"] in ("=", "==")
        compared[f"{one['key']['section']}:{one['key']['name']}"] = one["value"]
    return compared


def test_the_table_stands_on_top_and_the_page_beside_it(
    server: WandbServer, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish(source, "format=markdown") == 0
    shown = capsys.readouterr()
    first, *_ = blocks(server, "markdown-block")
    assert first["content"].startswith(shown.out.rstrip())
    assert "undecided" in first["content"]
    (written,) = of_type(server, "runs")
    assert written["displayName"] == "Comparison grid"
    assert f"/lab/p/reports/Comparison-grid--{written['id'].rstrip('=')}" in shown.err
    (published,) = [run for (_, name), run in server.runs.items() if run["jobType"] == "report"]
    assert f"/lab/p/runs/{published['name']}" in first["content"]
    (page,) = [text for name, text in server.files.items() if name.endswith(".html")]
    asked = report.ReportOptions(source=str(source), sweep="grid", baseline=["muon"])
    assert page.decode() == report.page(load_runs(source), asked)


def test_only_the_seed_is_averaged(server: WandbServer, source: Path) -> None:
    publish(source)
    (grid,) = blocks(server, "panel-grid")
    (shown,) = grid["metadata"]["runSets"]
    assert compared_by(shown["filters"]) == {
        "config:names.value.dataset": "digits",
        "config:names.value.model": "convnet",
        "config:sweep.value": "grid",
        "summary:state": "done",
    }
    panels = grid["metadata"]["panelBankSectionConfig"]["panels"]
    assert [panel["config"]["metrics"] for panel in panels] == [[name] for name in CURVES]
    assert {panel["config"]["xAxis"] for panel in panels} == {"epoch"}
    assert {panel["config"]["groupAgg"] for panel in panels} == {"mean"}
    (view,) = of_type(server, "project-view")
    (listed,) = json.loads(view["spec"])["section"]["runSets"]
    assert compared_by(listed["filters"]) == {"config:sweep.value": "grid"}
    for runset in (shown, listed):
        groups: dict[Any, list[Tree]] = defaultdict(list)
        for run in server.runs.values():
            if run["jobType"] is None:
                key = tuple(
                    value_at(run["config"], key["name"])
                    for key in runset["grouping"]
                    if key["section"] == "config"
                )
                assert len(key) == len(runset["grouping"])
                groups[key].append(run["config"])
        assert len(groups) == 3
        for members in groups.values():
            assert len({one["seed"]["value"] for one in members}) == len(members) == 3
            rest = [{k: v for k, v in one.items() if k not in ("seed", "id")} for one in members]
            assert all(one == rest[0] for one in rest)
    for column in json.loads(view["spec"])["section"]["runSets"][0]["runFeed"]["columnOrder"]:
        section, _, path = column.partition(":")
        run = next(run for run in server.runs.values() if run["jobType"] is None)
        if section == "config":
            assert value_at(run["config"], path) is not None
        elif section == "summary":
            assert path == "test/accuracy"


def test_again_the_same_report_is_written_and_the_view_is_left_alone(
    server: WandbServer, source: Path, runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(source)
    before = {key: dict(view) for key, view in server.views.items()}
    (view,) = of_type(server, "project-view")
    changed = json.loads(view["spec"])
    changed["section"]["settings"]["smoothingWeight"] = 3  # somebody's own choice
    view["spec"] = json.dumps(changed)
    config = runs.config("sgd", 0, sweep="grid")
    runs.folder(source, config, runs.summary(0.5))
    capsys.readouterr()
    publish(source)
    assert server.views.keys() == before.keys()
    (written,) = of_type(server, "runs")
    assert written["id"] in before
    assert "| sgd |" in written["spec"]
    assert "| sgd |" not in before[written["id"]]["spec"]
    assert json.loads(view["spec"])["section"]["settings"]["smoothingWeight"] == 3
    addresses = [line for line in capsys.readouterr().err.splitlines() if line.startswith("http")]
    assert addresses[1].endswith(f"/lab/p?nw={view['name'].removeprefix('nw-')[:-2]}")


def test_measured_exponents_are_pictures_of_the_tables_own_run(
    server: WandbServer, source: Path
) -> None:
    layers = {"conv1": 2.0, "conv2": 1.5, "fc": 1.0}
    measured = write_run(
        source, "measured", [directions(layers, epoch=epoch) for epoch in (0.0, 5.0)]
    )
    config = json.loads((measured / "config.json").read_text())
    (measured / "config.json").write_text(json.dumps({**config, "sweep": "grid"}))
    publish(source)
    (published,) = [run for run in server.runs.values() if run["jobType"] == "report"]
    names = [f"{name} of resnet18 on cifar10" for name in ("alpha", "gamma", "s")]
    media = [name for name in server.files if f"{published['name']}/media/images/" in name]
    assert len(media) == 3
    assert all(server.files[name].startswith(b"\x89PNG") for name in media)
    *_, grid = blocks(server, "panel-grid")
    (panel,) = grid["metadata"]["panelBankSectionConfig"]["panels"]
    assert panel["config"]["mediaKeys"] == names
    assert {"alpha", "gamma", "s"} <= {name.split(" of ")[0] for name in published["summary"]}
    (shown,) = grid["metadata"]["runSets"]
    assert compared_by(shown["filters"]) == {"run:name": published["name"]}


def test_without_the_package_the_table_is_published_all_the_same(
    server: WandbServer,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    for name in [name for name in sys.modules if name.startswith("wandb_workspaces.")]:
        monkeypatch.delitem(sys.modules, name)
    assert publish(source) == 0
    said = capsys.readouterr().err.splitlines()
    assert "published to lab/p" in said
    extra = "pip install 'spectral-bench[wandb-reports]'"
    assert f"no W&B Report: it needs the `wandb-reports` extra: {extra}" in said
    assert [run for run in server.runs.values() if run["jobType"] == "report"]
    assert not server.views


def test_a_refusal_is_one_line(
    server: WandbServer,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(WandbServer, "on_upsertView", None)
    assert publish(source) == 0
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "Report" in line]
    assert said.startswith("no W&B Report: ")
    assert "upsertView" in said


def test_offline_there_is_a_table_and_no_report(
    runs: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import wandb

    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    runs.folder(tmp_path / "runs", runs.config(sweep="grid"), runs.summary(0.9))
    assert tables.main(["source=runs", "publish=lab/p"]) == 0
    said = capsys.readouterr().err
    assert "published to lab/p" in said
    assert "no W&B Report: nothing was sent (WANDB_MODE=offline)" in said
