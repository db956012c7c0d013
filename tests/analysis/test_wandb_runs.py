"""Runs from a server: the real client of W&B against a loopback server with our answers.

It proves how the client is used (pages, no request a run, no history), not what W&B answers.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import wandb_runs
from analysis.runs import load_runs


class Server(ThreadingHTTPServer):
    """A W&B server that knows a viewer and the runs of one project, a page at a time."""

    nodes: list[dict[str, Any]]
    asked: list[str]

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else ""
        self.asked.append(name)
        if name in ("Viewer", "GetDefaultEntity"):
            viewer = {
                "id": "VXNlcjox",
                "entity": "lab",
                "username": "t",
                "name": "t",
                "flags": "{}",
            }
            return {"viewer": {**viewer, "teams": {"edges": []}, "apiKeys": {"edges": []}}}
        if name == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        assert name == "Runs", name
        if variables["project"] != "project":
            return {"project": None}
        begin = int(variables.get("cursor") or 0)
        end = begin + variables["perPage"]
        page = [
            {"node": asked_of(node, query), "cursor": str(begin + i + 1)}
            for i, node in enumerate(self.nodes[begin:end])
        ]
        info = {"endCursor": str(end), "hasNextPage": end < len(self.nodes)}
        runs = {"edges": page, "pageInfo": info}
        project = {"internalId": "1", "runCount": len(self.nodes), "readOnly": False, "runs": runs}
        return {"project": project}


def asked_of(node: dict[str, Any], query: str) -> dict[str, Any]:
    """Return a run without its heavy fields, unless the query asks for them."""
    heavy = ("config", "summaryMetrics", "systemMetrics")
    return {key: value for key, value in node.items() if key not in heavy or key in query}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b"{}"
        if self.path == "/graphql":
            body = json.loads(raw)
            data = self.server.answer(body["query"], body.get("variables") or {})
            content = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


def node(
    config: dict[str, Any], summary: dict[str, Any], state: str = "finished"
) -> dict[str, Any]:
    """Return a run as W&B's server tells it: configs wrapped, whole floats as integers."""
    wrapped = {key: {"value": value} for key, value in (config | {"provenance": {}}).items()}
    return {
        "id": config["id"],
        "projectId": "1",
        "name": config["id"],
        "displayName": config["id"],
        "tags": [],
        "state": state,
        "config": re.sub(r"(\d)\.0\b", r"\1", json.dumps(wrapped)),
        "summaryMetrics": re.sub(r"(\d)\.0\b", r"\1", json.dumps(summary | {"_step": 5})),
        "systemMetrics": "{}",
        "createdAt": "2026-01-01T00:00:00Z",
        "heartbeatAt": "2026-01-01T00:00:00Z",
        "historyLineCount": 5,
        "readOnly": False,
        "historyKeys": None,
        "user": {"name": "t", "username": "t"},
    }


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    import wandb

    made = Server(("127.0.0.1", 0), Handler)
    made.nodes, made.asked = [], []
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{made.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("HOME", str(tmp_path))
    wandb.teardown()  # the client reads its settings once
    yield made
    wandb.teardown()
    made.shutdown()
    thread.join()
    made.server_close()


def test_pages_of_configs_and_summaries_are_all_that_is_asked(
    server: Server, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_runs, "_PER_PAGE", 3)
    folders = tmp_path / "runs"
    for seed in range(8):
        config, summary = runs.config(seed=seed, schedule__warmup=1.0), runs.summary(seed / 7)
        if seed == 6:
            summary = runs.summary(0.0, "diverged")
        if seed == 7:  # killed: W&B says crashed, the run said nothing
            summary = {"test/accuracy": 0.9}
        runs.folder(folders, config, summary, summary.get("state", "running"))
        server.nodes.append(node(config, summary, "crashed" if seed == 7 else "finished"))
    server.nodes.reverse()
    table = load_runs("wandb:lab/project")
    pd.testing.assert_frame_equal(table, load_runs(folders), check_exact=True)
    assert table["state"].tolist() == ["done"] * 6 + ["diverged", "running"]
    assert server.asked.count("Runs") == 3
    assert set(server.asked) <= {"Viewer", "GetDefaultEntity", "ServerFeaturesQuery", "Runs"}


def test_an_unknown_project_is_one_line(server: Server) -> None:
    with pytest.raises(ValueError, match=r"wandb:lab/nothing: .*offline:<folder>") as caught:
        load_runs("wandb:lab/nothing")
    assert "\n" not in str(caught.value)


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
