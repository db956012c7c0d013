"""The command ``spectral-bench``: every other command by its name.

Each is a module that also runs by itself (``spectral-bench train``); it is looked up by name here,
so that listing the commands imports none of them.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

from bench.errors import piped

PROGRAM = "spectral-bench"
USAGE_ERROR = 2


class Command(NamedTuple):
    """One command: the module that carries it out, and the words that it is given first."""

    module: str
    help: str
    words: tuple[str, ...] = ()
    # Who reads its arguments: Hydra (groups and values of a run), bench/options.py, or itself.
    reader: Literal["hydra", "options", "none"] = "options"


# What a user needs, in the order in which it is needed.
DAILY = {
    "demo": Command("bench.demo", "sweep, curvature and table on a CPU, in minutes", (), "hydra"),
    "prepare": Command("bench.prepare", "get a dataset: dataset=cifar10"),
    "train": Command("bench.train", "one run, or a grid: -m optimizer=adamw,muon", (), "hydra"),
    "plan": Command("bench.sweep", "what a grid would run: +sweeps=table3", ("plan",), "hydra"),
    "watch": Command("bench.sweep", "a live table of the newest grid", ("watch",)),
    "tune": Command("bench.tune", "tune a study's optimizers with equal budgets", (), "hydra"),
    "study": Command("bench.study", "a study from exponents and tuning to its table", (), "hydra"),
    "tables": Command("analysis.tables", "compare optimizers: source=runs baseline=adamw"),
    "report": Command("analysis.report", "one HTML page of a study: source=runs sweep=digits"),
    "curvature": Command("analysis.curvature", "alpha, gamma and s of each layer: run=runs/<id>"),
}  # fmt: skip
MORE = {
    "study register": Command("bench.register", "freeze a study's plan", ("register",), "hydra"),
    "study status": Command("bench.register", "plan and runs as registered?", ("status",), "hydra"),
    "status": Command("bench.sweep", "how the newest grid stands, and what failed", ("status",)),
    "logs": Command("bench.sweep", "what a run has printed: run=<id>", ("logs",)),
    "cancel": Command("bench.sweep", "end a grid; the same command goes on with it", ("cancel",)),
    "figures": Command("analysis.figures", "curves, sensitivity, curvature: PNG and PDF"),
    "claims": Command("analysis.claims", "the preprint's claims, one by one, on your runs"),
    "landscape": Command("analysis.landscape", "the loss with one more sample: run=runs/<id>"),
    "hessian-blocks": Command("analysis.hessian_blocks", "a transformer's Hessian by block"),
    "across": Command("analysis.across", "mean ranks of optimizers over all tasks of the studies"),
    "archive": Command("analysis.archive", "a study's runs in one small file, and back (unpack)"),
    "sync": Command("bench.sync", "send runs that were trained offline to a W&B server"),
    "results": Command("analysis.results", "docs/RESULTS.md from the archives in results/"),
    "exponents-page": Command("analysis.exponents_page", "a page of measured exponents in docs/"),
    "speed step": Command("bench.speed.optimizer_step", "ms of an optimizer's step, side by side"),
    "speed epoch": Command("bench.speed.epoch", "an epoch beside that of a plain script"),
    "speed curvature": Command("bench.speed.curvature", "the curvature engines side by side"),
    "speed tables": Command("bench.speed.tables", "a table of 10,000 runs"),
    "completion": Command("bench.completion", "tab completion for bash, zsh or fish", (), "none"),
}
COMMANDS = DAILY | MORE


def main() -> None:
    """Carry out ``spectral-bench <command> ...``; exit with 2 where there is no such command."""
    with piped():
        _carry_out(sys.argv[1:])


def _carry_out(arguments: list[str]) -> None:
    if arguments[:1] == ["help"] and arguments[1:]:  # of one command
        arguments = [*arguments[1:], "--help"]
    if not arguments:
        print(_page(DAILY))
        print(f"\n{PROGRAM} <command> --help says more of one, {PROGRAM} help lists all.")
    elif arguments[0] in ("help", "--help", "-h"):
        print(_page(COMMANDS))
        print(f"\n{PROGRAM} <command> --help says more of one.")
    elif arguments[0] == "--version":
        print(PROGRAM, version(PROGRAM))
    else:
        name, rest = split(arguments)
        if name is None:
            raise SystemExit(_unknown(arguments))
        run(COMMANDS[name], rest)


def split(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the command that ``arguments`` begin with, None without, and those that follow."""
    for length in (2, 1):
        name = " ".join(arguments[:length])
        if name in COMMANDS and len(arguments) >= length:
            return name, list(arguments[length:])
    return None, list(arguments)


def run(command: Command, arguments: Sequence[str]) -> None:
    """Run a command in this process, as ``python -m <module>`` does."""
    # Components of the user's own are found in the working directory, after what is installed.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    sys.argv[1:] = [*command.words, *arguments]
    # The module becomes __main__, which is what processes that it starts import.
    runpy.run_module(command.module, run_name="__main__", alter_sys=True)


def _page(commands: dict[str, Command]) -> str:
    width = max(len(name) for name in commands)
    lines = [f"  {name:{width}}  {command.help}" for name, command in commands.items()]
    return "\n".join([f"usage: {PROGRAM} <command> [key=value ...]", "", *lines])


def _unknown(arguments: Sequence[str]) -> int:
    """Print in one line that there is no such command; return the exit status."""
    group = [name for name in COMMANDS if name.startswith(f"{arguments[0]} ")]
    if group:
        line = f"error: {arguments[0]}: say which: {', '.join(group)}"
    else:
        near = get_close_matches(arguments[0], [name.partition(" ")[0] for name in COMMANDS], n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        line = f"error: {arguments[0]}: there is no such command; {hint}{PROGRAM} help lists all"
    print(line, file=sys.stderr)
    return USAGE_ERROR


if __name__ == "__main__":
    main()
