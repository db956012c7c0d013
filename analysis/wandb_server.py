"""Runs of a project on a W&B server: whole pages, filtered there, and never sampled.

What the server already told is kept in a cache (`analysis.run_cache`): a later call lists the runs
without configs and summaries, a thousand a request, and asks for those that changed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress

from analysis import run_cache
from analysis.run_cache import Told
from analysis.run_frame import warn
from analysis.wandb_runs import NO_RUNS

_LISTED = 1000  # light runs a request: the largest page that the service gives
_WHOLE = 200  # whole runs a request: each answered in good time
_TIMEOUT = 60  # seconds a request
_PAUSES = (0.5, 1, 2, 4, 8, 16)  # seconds before each further attempt, beside the client's own

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Filters:
    """Which runs: of a sweep (W&B's group), with any of some tags; empty means all."""

    sweep: str | None = None
    tags: tuple[str, ...] = ()

    def query(self) -> dict[str, Any]:
        """Return the filters as the server takes them."""
        asked: dict[str, Any] = {}
        if self.sweep is not None:
            asked["group"] = self.sweep
        if self.tags:
            asked["tags"] = {"$in": list(self.tags)}
        return asked

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Return whether a run of this config is meant, as the server would tell."""
        tracker = config.get("tracker")
        own = tracker.get("tags") if isinstance(tracker, Mapping) else None
        tagged = not self.tags or bool(set(self.tags) & set(own or ()))
        return tagged and (self.sweep is None or config.get("sweep") == self.sweep)


def runs(project: str, filters: Filters = Filters(), *, fresh: bool = True) -> list[Told]:
    """Return the runs of ``<entity>/<project>``; login and address are wandb's own settings.

    Args:
        project: ``<entity>/<project>``.
        filters: which runs; the server chooses.
        fresh: whether to ask the server for changes; else the cache alone is read.

    Raises:
        ValueError: no such project, no login, no connection, or nothing in the cache; one line.
    """
    _check(project)
    cache = run_cache.RunCache(project)
    if not fresh:
        known = cache.read()
        if not known:
            raise ValueError(f"wandb:{project}: nothing in the cache; ask with refresh=true first")
        return [told for told in known.values() if filters.fits(told.config)]
    try:
        return _updated(project, filters, cache)
    except Exception as error:  # the client has several unrelated families of errors
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"wandb:{project}: {reason}; check `wandb login` and the network, "
            "or read the same runs with offline:<folder>"
        ) from error


def history(project: str, run_id: str) -> list[dict[str, Any]]:
    """Return every logged row of one run, by ``scan_history``: all of them, not 500.

    Raises:
        ValueError: no such run or project, no login or no connection; one line.
    """
    _check(project)
    try:
        run = _patiently(lambda: _api(project).run(f"{project}/{run_id}"))
        return _patiently(lambda: [dict(row) for row in run.scan_history()])
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"wandb:{project}: run {run_id!r}: {reason}") from error


def _check(project: str) -> None:
    entity, _, name = project.partition("/")
    if not entity or not name or "/" in name:
        raise ValueError(f"wandb:{project}: write wandb:<entity>/<project>")


def _api(project: str) -> Any:
    import wandb

    entity = project.partition("/")[0]  # else the client asks the server for the account's own
    return wandb.Api(overrides={"entity": entity}, timeout=_TIMEOUT)


def _updated(project: str, filters: Filters, cache: run_cache.RunCache) -> list[Told]:
    """List the runs, ask for those that the cache does not hold as they are, and keep them."""
    api = _patiently(lambda: _api(project))
    known = cache.read()
    stamps: dict[str, str] = {}
    with Progress(console=Console(stderr=True), transient=True, disable=not _shown()) as bar:
        task = bar.add_task("listing runs", total=None)
        for run in _pages(api, project, filters.query(), lazy=True):
            if run.job_type not in NO_RUNS:
                stamps[run.id] = _stamp(run)
            bar.advance(task)
        changed = [name for name, stamp in stamps.items() if not _holds(known, name, stamp)]
        bar.update(task, description="reading runs", total=len(changed), completed=0)
        for begin in range(0, len(changed), _WHOLE):
            names = changed[begin : begin + _WHOLE]
            for run in _pages(api, project, {"name": {"$in": names}}, lazy=False):
                known[run.id] = Told(
                    run.id, _stamp(run), dict(run.config), dict(run.summary_metrics)
                )
                bar.advance(task)
    lost = [name for name in stamps if name not in known]
    if lost:
        warn(f"wandb:{project}: {len(lost)} runs were listed and then gone: {', '.join(lost[:3])}")
    if not filters.query():  # what is no longer listed was deleted
        gone = known.keys() - stamps.keys()
        known = {name: told for name, told in known.items() if name in stamps}
        changed += sorted(gone)
    if changed:
        cache.write(known)
    if not stamps and filters.query():
        raise ValueError(f"no runs with {json.dumps(filters.query())} there")
    return [known[name] for name in stamps if name in known]


def _holds(known: Mapping[str, Told], name: str, stamp: str) -> bool:
    return name in known and known[name].stamp == stamp


def _stamp(run: Any) -> str:
    """Return what changes whenever a run does: its last heartbeat, state and rows."""
    return f"{run.heartbeat_at} {run.state} {run.history_line_count}"


def _pages(api: Any, project: str, filters: Mapping[str, Any], *, lazy: bool) -> Iterator[Any]:
    """Yield the runs that ``filters`` choose; lazy ones lack config and summary."""
    size = _LISTED if lazy else _WHOLE
    found = api.runs(project, filters=dict(filters), per_page=size, lazy=lazy)
    index = 0
    while True:
        try:
            # By index: the client's iterator would skip a run at each repeated attempt.
            run = _patiently(lambda at=index: found[at])  # type: ignore[misc]
        except IndexError:
            return
        yield run
        index += 1


def _patiently(ask: Callable[[], ResultT], pauses: Sequence[float] = _PAUSES) -> ResultT:
    """Return what ``ask`` returns, asking again after outages and rate limits."""
    for pause in pauses:
        try:
            return ask()
        except IndexError:
            raise
        except Exception as error:
            if not _passing(error):
                raise
            time.sleep(pause)
    return ask()


def _passing(error: BaseException | None) -> bool:
    """Return whether an error of the client may pass: an outage, not the server's own answer."""
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError):
            return True
        if isinstance(error, WandbApiFailedError):
            status = error.response.http_status if error.response is not None else 0
            return not status or status in (408, 429) or status >= 500
        error = error.__cause__
    return False


def _shown() -> bool:
    return sys.stderr.isatty()
