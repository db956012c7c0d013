"""Look at grids: what is planned, how it stands, what went wrong.

spectral-bench plan +sweeps=digits     what `train -m` with these would run, and its cost
spectral-bench status                  the newest launch: counts, and what is not done
spectral-bench watch                   the same, kept up to date until all is over
spectral-bench logs run=<run id>       what a run has printed
spectral-bench cancel                  end a launch; the same command goes on with it later

All but plan take runs_dir=runs and launch=<name>; a beginning of a name or an id is enough.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pydantic import Field

from bench.cli import guarded
from bench.compose import composing
from bench.errors import RunsFailedError, UserError, suggestion
from bench.launch import live, manifest, seeds, slurm
from bench.launch import plan as report
from bench.launch.grid import Composer, combinations, master_config
from bench.launch.plan import Plan, Retry, make_plan, objections
from bench.options import Options, OptionsT, parse, show
from bench.run_folder import LOG
from bench.tuning.spec import Study, study_of

_SHOWN = 40  # problems listed before the rest is only counted


def plan(arguments: Sequence[str]) -> None:
    """Print what ``spectral-bench train -m ARGUMENTS`` would do, and what refuses it.

    A ``-m`` of the arguments changes nothing.

    Raises:
        UserError: no combination is a run on any machine.
    """
    arguments = [one for one in arguments if one not in ("-m", "--multirun")]
    with composing() as loader:
        master = master_config(loader, arguments)
        launcher, choices = master.hydra.launcher, master.hydra.runtime.choices
        on_slurm = "slurm" in str(choices.get("hydra/launcher"))
        scheduler = (
            partial(slurm.scheduler_status, Path(str(master.runs_dir))) if on_slurm else None
        )
        grid = combinations(master)
        # Devices are looked for apart: without one a run has its id and its folder all the same.
        made = make_plan(Composer(loader, master, elsewhere=True), grid, scheduler)
    study, sweep = study_of(master), choices.get("sweeps")
    if study.question is not None:
        print(study.question)
    print(report.axes(grid))
    show_plan(
        made, launcher.get("retry", "all"), list(master.hydra.overrides.hydra), elsewhere=on_slurm
    )
    for line in seeds.lines(made, study) if made.to_do() else ():
        print(line)
    if sweep is not None:
        measured = master.exponents is not None and Path(master.exponents).is_file()
        _show_study(study, str(sweep), tuned=bool(master.tuned), measured=measured)


def show_plan(
    made: Plan, retry: Retry = "all", launch: Sequence[str] = (), *, elsewhere: bool = False
) -> None:
    """Print a plan with everything that refuses a part of it, and its cost.

    ``launch`` holds the Hydra overrides of the launch, for the commands that run a failure again;
    ``elsewhere``: it is for another machine, which has the devices.

    Raises:
        UserError: no combination is a run on any machine.
    """
    print(made.line())
    to_do = made.to_do(retry)
    refused = [*made.invalid, *objections(to_do, elsewhere=elsewhere)]
    lines = [*report.causes(refused), *report.duplicates(made)]
    for line in lines[:_SHOWN]:
        print(line)
    if len(lines) > _SHOWN:
        print(f"... and {len(lines) - _SHOWN} more")
    _show_failures(made, launch)
    if to_do:
        print(f"to do: {len(to_do)}, {report.estimate(to_do)}")
    if made.invalid and not made.runs and not any(one.here for one in made.invalid):
        raise UserError(f"{len(made.invalid)} combinations cannot run; nothing would be started")


def _show_study(study: Study, sweep: str, *, tuned: bool, measured: bool) -> None:
    """Print what comes before a study's grid, and what the whole of its file costs."""
    before = []
    if study.exponents is not None and not measured:
        before.append(f"exponents are measured on {' '.join(study.exponents)}")
    if study.tuning is not None and not tuned:
        before.append(f"{study.tuning.trials} trials tune each optimizer")
    if before:
        command = f"spectral-bench study +sweeps={sweep}"
        print(f"before it: {' and '.join(before)}; `{command}` does all of it")
    if study.cost is not None:
        print(f"the whole of sweeps/{sweep}.yaml: {study.cost}")


class LaunchOptions(Options):
    """What the commands on a launch take."""

    runs_dir: Path = Field(Path("runs"), description="where the runs are")
    launch: str | None = Field(None, description="which launch; null: the newest one")


class LogOptions(LaunchOptions):
    """What ``logs`` takes."""

    run: str = Field(description="id of the run, or its beginning")
    lines: int = Field(40, ge=1, description="lines from the end of the log")


def _parsed(kind: type[OptionsT], arguments: Sequence[str], name: str, what: str) -> OptionsT:
    return parse(kind, arguments, prog=f"spectral-bench {name}", description=what)


def status(arguments: Sequence[str]) -> None:
    """Print how a launch stands, and what failed of it."""
    given = _parsed(LaunchOptions, arguments, "status", "Show how a launch stands.")
    launch = manifest.find(given.runs_dir, given.launch)
    made = live.now(launch, given.runs_dir)
    show(live.table(launch, made))
    _show_failures(made, launch.options.get("words", ()))


def watch(arguments: Sequence[str]) -> None:
    """Show a launch until all is over.

    Raises:
        RunsFailedError: a run of it failed.
    """
    given = _parsed(LaunchOptions, arguments, "watch", "Show a launch until all is over.")
    launch = manifest.find(given.runs_dir, given.launch)
    made = live.watch(launch, given.runs_dir)
    failed = made.of("failed")
    if failed:
        head = f"{len(failed)} of {len(made.runs)} runs failed:"
        raise RunsFailedError(f"{head}\n{report.failures(made, launch.options.get('words', ()))}")
    print(made.line())


def logs(arguments: Sequence[str]) -> None:
    """Print the end of a run's log.

    Raises:
        UserError: there is no such run, or it has printed nothing into a log.
    """
    given = _parsed(LogOptions, arguments, "logs", "Print what a run has printed.")
    files = sorted(given.runs_dir.glob(f"{given.run}*/{LOG}"))
    if not files:
        known = [path.name for path in given.runs_dir.glob("*") if (path / LOG).exists()]
        why = "the runs of a single process print to its terminal" if not known else ""
        hint = why or suggestion(given.run, known)
        raise UserError(f"run={given.run}: no log in {given.runs_dir}; {hint}")
    for path in files:
        print(f"==> {path} <==")
        for line in path.read_text(errors="replace").splitlines()[-given.lines :]:
            print(line)


def cancel(arguments: Sequence[str]) -> None:
    """End a launch: its jobs in the queue and at work, or its process on this machine.

    Raises:
        UserError: there is neither, or SLURM does not answer.
    """
    given = _parsed(LaunchOptions, arguments, "cancel", "End a launch; it can go on later.")
    launch = manifest.find(given.runs_dir, given.launch)
    jobs, process = launch.submitted.get("tasks", {}).values(), launch.process
    if jobs and (count := slurm.cancel(jobs)):
        print(f"{launch.name}: {count} jobs cancelled; the same launch command goes on with it")
    elif process is not None:
        os.kill(process, signal.SIGTERM)  # SIGINT is ignored by what a script put in the background
        print(f"{launch.name}: process {process} is asked to stop")
    else:
        raise UserError(f"{launch.name}: nothing of it runs here; see spectral-bench status")


def _show_failures(made: Plan, launch: Sequence[str]) -> None:
    if made.of("failed"):
        print(f"failed:\n{report.failures(made, launch)}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "plan": plan,
    "status": status,
    "watch": watch,
    "logs": logs,
    "cancel": cancel,
}


def main(arguments: Sequence[str]) -> None:
    """Carry out one command.

    Raises:
        UserError: there is no such command.
    """
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h") or (name == "plan" and {"--help", "-h"} & set(rest)):
        print(__doc__)
        return
    if name not in COMMANDS:
        raise UserError(f"{name}: there is no such command; {suggestion(name, COMMANDS)}")
    COMMANDS[name](rest)


if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1:]))
