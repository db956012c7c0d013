"""Runs of a project on a W&B server: whole pages, filtered there, and never sampled.

What the server has answered is kept in a cache (`analysis.run.cache`): a later call lists the runs
without configs and summaries, a thousand a request, and asks for those that changed. Its runs and
those of offline logs in a folder become records here.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress

from analysis.run import cache as run_cache
from analysis.run import wandb_files
from analysis.run.cache import ServerRun
from analysis.run.folders import file_stamp
from analysis.run.frame import STATES, Filters, RunRecord, nearest, warn
from bench.files import is_name

# Job types of what lies beside runs on W&B and is none: published comparisons.
NO_RUNS = ("report",)


def offline_records(folder: Path) -> Iterator[RunRecord]:
    """Yield the runs whose logs lie anywhere under ``folder``; damaged logs give a `RunWarning`."""
    for run_id, paths in _logs(folder).items():
        attempts = []
        for path in paths:
            try:
                attempts.append(wandb_files.read_file(path, history=False))
            except (OSError, wandb_files.WandbFileError) as error:
                warn(str(error))
        if not attempts:
            yield RunRecord(run_id, "unreadable")
            continue
        run = wandb_files.fold(attempts)
        if run.job_type not in NO_RUNS:
            yield record(run_id, run.config, run.summary)


def offline_stamps(folder: Path) -> list[str]:
    """Return a text for each log under ``folder``, another whenever the log changes."""
    return [f"{path} {file_stamp(str(path))}" for path in wandb_files.find_files(folder)]


def offline_history(folder: Path, run_id: str) -> list[dict[str, Any]]:
    """Return every history row of one run, its attempts merged by step.

    Raises:
        ValueError: no such run, or a damaged log.
    """
    logs = _logs(folder)
    if run_id not in logs:
        raise ValueError(f"{folder}: no offline log of run {run_id!r}{nearest(run_id, logs)}")
    return wandb_files.fold([wandb_files.read_file(path) for path in logs[run_id]]).history


def _logs(folder: Path) -> dict[str, list[Path]]:
    """Return the offline logs under ``folder`` by run id."""
    logs: dict[str, list[Path]] = defaultdict(list)
    for path in wandb_files.find_files(folder):
        logs[wandb_files.run_id(path)].append(path)
    return logs


def server_records(runs: Iterable[ServerRun]) -> list[RunRecord]:
    """Return the runs of a server, the attempts of one run folded into one.

    Attempts that W&B took for runs of their own state the same id in their config: the finished
    one counts, or the one that came furthest.
    """
    attempts: dict[str, list[ServerRun]] = defaultdict(list)
    for one in runs:
        own = one.config.get("id", one.id)
        if is_name(own):
            attempts[own].append(one)
        else:
            warn(f"wandb: {own!r} is no name of a run; it is left out")
    return [
        record(run_id, best.config, best.summary)
        for run_id, ones in attempts.items()
        for best in [max(ones, key=_progress)]
    ]


def _progress(run: ServerRun) -> tuple[bool, float, str]:
    steps = run.summary.get("steps", run.summary.get("_step", -1))
    return (run.summary.get("state") in ("done", "diverged"), float(steps or 0), run.id)


def record(run_id: str, config: Mapping[str, Any], summary: Mapping[str, Any]) -> RunRecord:
    """Return the run that W&B has: its state is in the summary, its provenance in the config."""
    state, provenance = summary.get("state"), config.get("provenance")
    # Tables and images: W&B has their places, with a "_type".
    summary = {
        name: value
        for name, value in summary.items()
        if not (isinstance(value, Mapping) and "_type" in value)
    }
    state = str(state) if state in STATES[:-1] else "running"  # one that wrote none did not end
    return RunRecord(
        run_id, state, config, summary, provenance if isinstance(provenance, Mapping) else {}
    )


_LISTED = 1000  # light runs a request: the largest page that the service gives
_WHOLE = 200  # whole runs a request: each answered in good time
_TIMEOUT = 60  # seconds a request
_PAUSES = (0.5, 1, 2, 4, 8, 16)  # seconds before each further attempt, beside the client's own

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Chosen:
    """The runs that were chosen: ``stamps`` by id, and how to ``read`` them whole."""

    stamps: Mapping[str, str]
    read: Callable[[], list[ServerRun]]


def runs(project: str, filters: Filters, *, fresh: bool) -> Chosen:
    """Return the runs of ``<entity>/<project>``; login and address are wandb's own settings.

    What ``filters`` mean beyond the server's own filters is left to the caller.

    Args:
        project: ``<entity>/<project>``.
        filters: which runs; the server chooses, the cache does not.
        fresh: whether to ask the server for changes; else the cache alone is read, whole.

    Raises:
        ValueError: no such project, no login, no connection, or nothing in the cache; one line.
    """
    _check(project)
    cache = run_cache.RunCache(project)
    if not fresh:
        stamps = cache.stamps()
        if not stamps:
            raise ValueError(f"wandb:{project}: nothing in the cache; ask with refresh=true first")
        return Chosen(stamps, lambda: list(cache.read().values()))
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


def _updated(project: str, filters: Filters, cache: run_cache.RunCache) -> Chosen:
    """List the runs, ask for those that the cache does not hold as they are, and keep them."""
    api = _patiently(lambda: _api(project))
    had = cache.stamps()
    with Progress(console=Console(stderr=True), transient=True, disable=not _shown()) as bar:
        stamps = _listed(api, project, filters, bar)
        changed = [name for name, stamp in stamps.items() if had.get(name) != stamp]
        # What an unfiltered listing no longer has was deleted.
        gone = set() if filters.query() else had.keys() - stamps.keys()
        if not changed and not gone:
            return Chosen(stamps, lambda: _of(cache.read(), stamps))
        known = cache.read() | _asked(api, project, changed, bar)
    lost = [name for name in stamps if name not in known]
    if lost:
        warn(f"wandb:{project}: {len(lost)} runs were listed and then gone: {', '.join(lost[:3])}")
    known = {name: run for name, run in known.items() if name not in gone}
    cache.write(known)
    return Chosen({one.id: one.stamp for one in _of(known, stamps)}, lambda: _of(known, stamps))


def _listed(api: Any, project: str, filters: Filters, bar: Progress) -> dict[str, str]:
    """Return the stamps of the runs that the filters choose, by id."""
    stamps: dict[str, str] = {}
    task = bar.add_task("listing runs", total=None)
    for run in _pages(api, project, filters.query(), lazy=True):
        if run.job_type not in NO_RUNS:
            stamps[run.id] = _stamp(run)
        bar.advance(task)
    if not stamps and filters.query():
        raise ValueError(f"no runs with {json.dumps(filters.query())} there")
    return stamps


def _asked(api: Any, project: str, names: Sequence[str], bar: Progress) -> dict[str, ServerRun]:
    """Return these runs whole, as far as they are still there."""
    whole: dict[str, ServerRun] = {}
    task = bar.add_task("reading runs", total=len(names))
    for begin in range(0, len(names), _WHOLE):
        wanted = {"name": {"$in": list(names[begin : begin + _WHOLE])}}
        for run in _pages(api, project, wanted, lazy=False):
            numbers = dict(run.summary_metrics)
            whole[run.id] = ServerRun(run.id, _stamp(run), dict(run.config), numbers)
            bar.advance(task)
    return whole


def _of(known: Mapping[str, ServerRun], names: Iterable[str]) -> list[ServerRun]:
    return [known[name] for name in names if name in known]


def _stamp(run: Any) -> str:
    """Return what changes whenever a run does: its last heartbeat, state and rows."""
    return f"{run.heartbeat_at} {run.state} {run.history_line_count}"


def _pages(api: Any, project: str, filters: Mapping[str, Any], *, lazy: bool) -> Iterator[Any]:
    """Yield the runs that ``filters`` choose; lazy ones lack config and summary."""
    size = _LISTED if lazy else _WHOLE
    answer = api.runs(project, filters=dict(filters), per_page=size, lazy=lazy)
    index = 0
    while True:
        try:
            # By index: the client's iterator would skip a run at each repeated attempt.
            run = _patiently(lambda at=index: answer[at])  # type: ignore[misc]
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
