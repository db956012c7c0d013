"""The state of a launch as a table: once, or kept up to date until all is over."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.launch import slurm
from bench.launch.manifest import Launch
from bench.launch.plan import Plan, Planned, distinct_overrides, look
from bench.launch.status import run_folder

_ROWS = 30  # what a terminal shows without scrolling
_INTERVAL = 3.0  # seconds from one look to the next: kind to the controller


def now(launch: Launch, runs_dir: Path) -> Plan:
    """Return the status of the runs of ``launch``."""
    scheduler = partial(slurm.scheduler_status, runs_dir) if "tasks" in launch.submitted else None
    return Plan(tuple(look(launch.jobs(), scheduler)))


def over(launch: Launch, plan: Plan) -> bool:
    """Whether nobody is at any run any more, nor about to begin the next one."""
    if plan.of("running", "queued"):
        return False
    return launch.process is None or not plan.of("missing", "interrupted", "untracked")


def watch(launch: Launch, runs_dir: Path) -> Plan:
    """Show the table until all is over, or until Ctrl-C, which ends nothing but the watching."""
    plan = now(launch, runs_dir)
    console = Console()
    if not console.is_terminal:
        return _wait(launch, runs_dir, plan)
    with Live(table(launch, plan), console=console, refresh_per_second=2) as shown:
        while not over(launch, plan):
            time.sleep(_INTERVAL)
            plan = now(launch, runs_dir)
            shown.update(table(launch, plan))
    return plan


def _wait(launch: Launch, runs_dir: Path, plan: Plan) -> Plan:
    """As a log has it: a line each time that the counts change."""
    before = plan.line()
    print(before, flush=True)
    while not over(launch, plan):
        time.sleep(_INTERVAL)
        plan = now(launch, runs_dir)
        if plan.line() != before:
            before = plan.line()
            print(before, flush=True)
    return plan


def table(launch: Launch, plan: Plan) -> Group:
    """Return the counts, and a row for each run that is not done."""
    named = distinct_overrides(plan.runs)
    rows = Table(box=None, pad_edge=False)
    for column in ("run", "state", "step", "overrides"):
        rows.add_column(column, no_wrap=column != "overrides")
    order = ("running", "failed", "interrupted", "queued", "missing", "untracked")
    shown = [run for state in order for run in plan.of(state)]
    for run in shown[:_ROWS]:
        status = run.status
        state = f"{status.state}: {status.kind}" if status.kind else status.state
        rows.add_row(run.job.identity.id, state, _progress(run), named[run.job.identity.id])
    head = Text(f"{launch.name}: {plan.line()}")
    more = Text(f"... and {len(shown) - _ROWS} more") if len(shown) > _ROWS else Text("")
    return Group(head, rows if shown else Text("all done"), more)


def _progress(run: Planned) -> str:
    """Return the newest step that a run has written down."""
    if run.status.state not in ("running", "failed", "interrupted"):
        return ""
    rows = run_folder(run.job.config, run.job.identity.id).history()
    return str(rows[-1]["step"]) if rows else "0"
