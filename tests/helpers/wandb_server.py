"""A W&B server in memory, on loopback, for the real wandb client: writes, pages, filters, outages.

It answers what the client asks when it logs a run, syncs an offline one, lists runs, scans a
history, and writes reports and views. It shows how the client is used, not what the real server's
filters mean.
"""

# ruff: noqa: N802, N815  (methods are named after the client's GraphQL operations)
from __future__ import annotations

import base64
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

import pytest

Tree = dict[str, Any]
_HEAVY = ("config", "summaryMetrics", "systemMetrics")


def without_wandb(patch: pytest.MonkeyPatch) -> None:
    """Take every variable of W&B away; its service's address must not be back after the test."""
    import wandb

    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)


class WandbServer(ThreadingHTTPServer):
    """Holds the runs of ``lab/<project>``; ``asked`` names every GraphQL operation in order.

    ``trouble`` of all requests are answered by 429, 500 or a closed connection, by a seeded draw.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[tuple[str, str], Tree] = {}  # (project, run id) -> run
        self.files: dict[str, bytes] = {}
        self.views: dict[str, Tree] = {}  # id -> report or saved view
        self.asked: list[str] = []
        self.variables: list[Tree] = []
        self.trouble = 0.0
        self.refused = 0
        self.lock = threading.RLock()
        self.random = Random(0)
        self.largest_page = 1000

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, project: str, run_id: str, **fields: Any) -> Tree:
        """Return the run, made if it is new, with ``fields`` changed and its heartbeat renewed."""
        with self.lock:
            run = self.runs.setdefault((project, run_id), _new_run(run_id))
            run["beats"] += 1
            run.update(fields)
            return run

    def answer(self, query: str, variables: Tree) -> Tree:
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else ""
        with self.lock:
            self.asked.append(name)
            self.variables.append(variables)
            answer: Callable[[str, Tree], Tree] | None = getattr(self, f"on_{name}", None)
            if answer is None:
                return {"data": None, "errors": [{"message": f"unknown operation {name}"}]}
            return {"data": answer(query, variables)}

    # -- who asks ---------------------------------------------------------------------------------

    def on_Viewer(self, query: str, variables: Tree) -> Tree:
        viewer = {
            "id": _b64("User:1"),
            "entity": "lab",
            "username": "t",
            "name": "t",
            "flags": "{}",
        }
        return {"viewer": {**viewer, "teams": {"edges": []}, "apiKeys": {"edges": []}}}

    on_GetDefaultEntity = on_Viewer

    def on_ServerFeaturesQuery(self, query: str, variables: Tree) -> Tree:
        return {"serverInfo": {"features": []}}

    # -- writing ----------------------------------------------------------------------------------

    def on_UpsertBucket(self, query: str, asked: Tree) -> Tree:
        project, name = asked.get("project") or "uncategorized", str(asked.get("name"))
        inserted = (project, name) not in self.runs
        names = {"displayName": "displayName", "groupName": "group", "jobType": "jobType",
                 "tags": "tags", "notes": "notes"}  # fmt: skip
        given = {ours: asked[theirs] for theirs, ours in names.items() if asked.get(theirs)}
        run = self.put(project, name, **given)
        if asked.get("config"):
            run["config"] = json.loads(asked["config"])
        if asked.get("summaryMetrics"):
            run["summary"].update(json.loads(asked["summaryMetrics"]))
        bucket = {
            "id": _b64(f"Run:v1:{name}:{project}:lab"), "name": name,
            "displayName": run["displayName"], "description": None, "sweepName": None,
            "config": json.dumps(run["config"]), "historyLineCount": len(run["history"]),
            "eventsLineCount": len(run["events"]), "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run["history"][-1:]]),
            "eventsTail": "[]", "summaryMetrics": json.dumps(run["summary"]),
            "tags": run["tags"], "wandbConfig": json.dumps({"t": 1}),
            "project": {"id": _b64(project), "name": project,
                        "entity": {"id": _b64("lab"), "name": "lab"}},
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def on_RunResumeStatus(self, query: str, asked: Tree) -> Tree:
        key = (str(asked.get("project")), str(asked.get("name")))
        if key not in self.runs:
            return {"model": {"id": _b64(key[0]), "name": key[0], "entity": None, "bucket": None}}
        bucket = self.on_UpsertBucket(query, {"project": key[0], "name": key[1]})
        found = bucket["upsertBucket"]["bucket"] | {"logLineCount": 0}
        entity = {"id": _b64("lab"), "name": "lab"}
        return {"model": {"id": _b64(key[0]), "name": key[0], "entity": entity, "bucket": found}}

    def on_CreateRunFiles(self, query: str, asked: Tree) -> Tree:
        prefix = f"{asked['project']}/{asked['run']}"
        files = [
            {"name": name, "uploadUrl": f"{self.address}/storage/{prefix}/{name}"}
            for name in asked["files"]
        ]
        return {"createRunFiles": {"runID": _b64("Run"), "uploadHeaders": [], "files": files}}

    def stream(self, project: str, name: str, body: Tree) -> None:
        """Take a chunk of a run's file stream: rows at an offset, summary, exit code."""
        run = self.put(project, name)
        for file, chunk in (body.get("files") or {}).items():
            rows = chunk.get("content", [])
            at = chunk.get("offset", 0)
            if file == "wandb-history.jsonl":
                run["history"][at:] = [json.loads(row) for row in rows]
            elif file == "wandb-summary.json":
                run["summary"] = json.loads(rows[-1])
        if body.get("complete"):
            run["state"] = "finished" if body.get("exitcode") == 0 else "failed"

    # -- reading ----------------------------------------------------------------------------------

    def on_Runs(self, query: str, asked: Tree) -> Tree:
        filters = json.loads(asked.get("filters") or "{}")
        all_here = [run for (project, _), run in self.runs.items() if project == asked["project"]]
        if not all_here:
            return {"project": None}
        found = [run for run in all_here if _matches(run, filters)]
        begin = int(asked.get("cursor") or 0)
        end = begin + min(asked.get("perPage") or 50, self.largest_page)
        edges = [
            {"node": _told(run, query), "cursor": str(begin + place)}
            for place, run in enumerate(found[begin:end], 1)
        ]
        info = {"endCursor": str(end), "hasNextPage": end < len(found)}
        runs = {"edges": edges, "pageInfo": info}
        project = {"internalId": "1", "runCount": len(found), "readOnly": False, "runs": runs}
        return {"project": project}

    def _of(self, asked: Tree) -> Tree:
        name = asked.get("name") or asked.get("run") or asked.get("runName")
        return self.runs[asked["project"], str(name)]

    def on_Run(self, query: str, asked: Tree) -> Tree:
        found = (asked["project"], str(asked.get("name"))) in self.runs
        return {"project": {"run": _told(self._of(asked), query) if found else None}}

    def on_RunHistoryKeys(self, query: str, asked: Tree) -> Tree:
        return {"project": {"run": {"historyKeys": _told(self._of(asked), query)["historyKeys"]}}}

    def on_RunParquetHistory(self, query: str, asked: Tree) -> Tree:
        history = {"parquetUrls": [], "liveData": [{"_step": 0}]}
        return {"project": {"run": {"parquetHistory": history}}}

    def on_HistoryPage(self, query: str, asked: Tree) -> Tree:
        rows = [
            row for row in self._of(asked)["history"]
            if asked["minStep"] <= row.get("_step", 0) < asked["maxStep"]
        ]  # fmt: skip
        shown = [json.dumps(row) for row in rows[: asked["pageSize"]]]
        return {"project": {"run": {"history": shown}}}

    # -- reports and saved views ------------------------------------------------------------------

    def on_upsertView(self, query: str, asked: Tree) -> Tree:
        inserted = asked.get("id") not in self.views
        key = _b64(f"View:{len(self.views)}") if inserted else str(asked["id"])
        json.loads(asked["spec"])  # the real one refuses what is no JSON, too
        names = ("type", "name", "displayName", "description", "spec", "projectName")
        project = {"id": "1", "name": asked["projectName"], "entityName": asked["entityName"]}
        times = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}
        self.views[key] = {"id": key, "project": project, **times, **{n: asked[n] for n in names}}
        return {"upsertView": {"view": self.views[key], "inserted": inserted}}

    on_UpsertView2 = on_upsertView

    def on_ProjectViews(self, query: str, asked: Tree) -> Tree:
        kind, project = asked.get("viewType", "runs"), asked["project"]
        edges = [
            {"node": {**view, "user": {"username": "t", "photoUrl": None, "email": None}},
             "cursor": key}
            for key, view in self.views.items()
            if (view["type"], view["projectName"]) == (kind, project)
            and asked.get("viewName") in (None, view["name"])
        ]  # fmt: skip
        info = {"endCursor": None, "hasNextPage": False}
        return {"project": {"allViews": {"edges": edges, "pageInfo": info}}}

    def on_View(self, query: str, asked: Tree) -> Tree:
        return self.on_ProjectViews(query, {**asked, "project": asked["name"]})

    def on_ProjectInternalId(self, query: str, asked: Tree) -> Tree:
        return {"project": {"id": "1", "internalId": "1"}}

    def on_GetProjects(self, query: str, asked: Tree) -> Tree:
        made = {"createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
        edges = [
            {"cursor": name, "node": {"id": name, "name": name, "entityName": "lab", **made}}
            for name in sorted({project for project, _ in self.runs})
        ]  # fmt: skip
        return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._refused():
            return
        stream = re.match(r"/files/[^/]+/([^/]+)/([^/]+)/file_stream", self.path)
        content: Tree = {}
        if self.path == "/graphql":
            body = json.loads(raw)
            content = self.server.answer(body["query"], body.get("variables") or {})
        elif stream:
            with self.server.lock:
                self.server.stream(*stream.groups(), json.loads(raw))
            content = {"exitcode": None, "limits": {}}
        self._reply(200, json.dumps(content).encode())

    def do_PUT(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._refused():
            return
        self.server.files[self.path.removeprefix("/storage/")] = raw
        self._reply(200, b"")

    def _refused(self) -> bool:
        with self.server.lock:
            if self.server.random.random() >= self.server.trouble:
                return False
            self.server.refused += 1
            kind = self.server.random.choice([429, 500, 0])
        if kind == 0:
            self.close_connection = True
            self.connection.close()
        else:
            self._reply(kind, b"{}")
        return True

    def _reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def finish(self) -> None:
        if not self.connection._closed:  # type: ignore[attr-defined]
            super().finish()

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[WandbServer]:
    """Run a server until the block ends."""
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _new_run(name: str) -> Tree:
    return {"name": name, "displayName": name, "config": {}, "summary": {}, "history": [],
            "events": [], "state": "running", "tags": [], "group": None, "jobType": None,
            "notes": None, "beats": 0}  # fmt: skip


def _told(run: Tree, query: str) -> Tree:
    """Return a run as the server tells it: without its heavy fields, unless they are asked for."""
    beat = (
        f"2026-01-01T{run['beats'] // 3600:02}:{run['beats'] // 60 % 60:02}:{run['beats'] % 60:02}Z"
    )
    keys: Tree = {}
    last = -1
    for row in run["history"]:
        last = max(last, int(row.get("_step", 0)))
        for key in row:
            keys.setdefault(key, {"typeCounts": [{"type": "number", "count": 1}]})
    node = {
        "id": _b64(f"Run:{run['name']}"), "projectId": "1", "sweepName": None, "commit": None,
        "readOnly": False, "createdAt": "2026-01-01T00:00:00Z", "heartbeatAt": beat,
        "description": None, "systemMetrics": "{}", "config": json.dumps(run["config"]),
        "summaryMetrics": json.dumps(run["summary"]), "historyLineCount": len(run["history"]),
        "user": {"name": "t", "username": "t"},
        "historyKeys": {"sets": [], "keys": keys, "lastStep": last},
        **{key: run[key] for key in
           ("name", "displayName", "tags", "state", "group", "jobType", "notes")},
    }  # fmt: skip
    return {key: value for key, value in node.items() if key not in _HEAVY or key in query}


def _matches(run: Tree, filters: Tree) -> bool:
    for key, wanted in filters.items():
        if key == "$and":
            fits = all(_matches(run, part) for part in wanted)
        elif key == "$or":
            fits = any(_matches(run, part) for part in wanted)
        else:
            fits = _fits(_field(run, key), wanted)
        if not fits:
            return False
    return True


def _field(run: Tree, key: str) -> Any:
    root, _, inner = key.partition(".")
    if root == "summary_metrics":
        return run["summary"].get(inner)
    return run[root]


def _fits(value: Any, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return bool(value == wanted)
    values = value if isinstance(value, list) else [value]
    for operator, operand in wanted.items():
        if operator == "$in" and not any(one in operand for one in values):
            return False
        if operator == "$exists" and (value is not None) != operand:
            return False
        if operator not in ("$in", "$exists"):
            raise AssertionError(f"a filter that this server does not know: {operator}")
    return True
