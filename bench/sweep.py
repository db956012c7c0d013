"""Look at grids: what is planned, how it stands, what went wrong.

python -m bench.sweep plan +sweeps=table3            what would run, and what it would cost
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from bench import config, paths
from bench.cli import guarded
from bench.errors import UserError, suggestion
from bench.launch import cost, report
from bench.launch.grid import Composer, combinations, master_config
from bench.launch.plan import Plan, Retry, make_plan, objections
from bench.launch.words import spelled_out

_SHOWN = 40  # problems listed before the rest is only counted


def plan(words: Sequence[str]) -> None:
    """Print what ``python -m bench.train -m WORDS`` would do; start nothing.

    Raises:
        UserError: combinations are invalid, or their data are missing.
    """
    config.register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = master_config(loader, spelled_out(words))
        launcher = master.hydra.launcher
        elsewhere = "slurm" in str(master.hydra.runtime.choices.get("hydra/launcher"))
        made = make_plan(Composer(loader, master, elsewhere=elsewhere), combinations(master))
    show_plan(made, launcher.get("retry", "all"))


def show_plan(made: Plan, retry: Retry = "all") -> None:
    """Print a plan with everything that is wrong with it, and its cost."""
    print(made.line())
    to_do = made.to_do(retry)
    refused = objections(to_do)
    lines = [*report.problems(made), *(report.invalid(one) for one in refused)]
    for line in lines[:_SHOWN]:
        print(line)
    if len(lines) > _SHOWN:
        print(f"... and {len(lines) - _SHOWN} more")
    if made.of("failed"):
        print(f"failed:\n{report.failures(made)}")
    if to_do:
        print(f"to do: {len(to_do)}, {cost.estimate(to_do)}")
    wrong = len(made.invalid) + len(refused)
    if wrong:
        raise UserError(f"{wrong} combinations cannot run; nothing would be started")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"plan": plan}


def main(arguments: Sequence[str]) -> None:
    """Carry out one command.

    Raises:
        UserError: there is no such command.
    """
    name, *words = arguments or ["--help"]
    if name in ("--help", "-h"):
        print(__doc__)
        return
    if name not in COMMANDS:
        raise UserError(f"{name}: there is no such command; {suggestion(name, COMMANDS)}")
    COMMANDS[name](words)


if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1:]))
