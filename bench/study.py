"""A study from its first run to its table: measured exponents, tuning, report.

    spectral-bench study +sweeps=study_a_small      a tenth of study (a), minutes on a CPU
    spectral-bench study +sweeps=study_a_8          any option of train as well
    spectral-bench study register +sweeps=study_x   before it: what is asked (study register --help)

Each step is an ordinary command, printed before it runs. Every step skips what is done, so a study
can be stopped at any moment and started again; the first failure ends it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from bench.cli import guarded
from bench.compose import composing
from bench.errors import RunsFailedError, UserError
from bench.launch.grid import Composer, Invalid, combinations, master_config
from bench.launch.status import run_folder
from bench.main import PROGRAM
from bench.registration import find
from bench.run_folder import EXPONENTS
from bench.tuning.spec import study_of


def program() -> str:
    """Return the running interpreter's ``spectral-bench`` as a person would type it."""
    script = Path(sys.executable).with_name(PROGRAM)
    on_path = shutil.which(PROGRAM)
    if on_path and Path(on_path).resolve() == script.resolve():
        return PROGRAM
    python = os.path.relpath(sys.executable)
    return os.path.relpath(script) if script.exists() else f"{python} -m bench.main"


def carry_out(steps: Iterable[Sequence[str]], what: str) -> None:
    """Run each step as ``spectral-bench <step>``.

    Raises:
        RunsFailedError: a step failed; its own output says why.
    """
    for step in steps:
        print(f"\n$ {program()} {' '.join(step)}", flush=True)
        status = subprocess.run([sys.executable, "-m", "bench.main", *step], check=False).returncode
        if status != 0:
            raise RunsFailedError(f"{what} stopped: {step[0]} ended with status {status}")


_BASELINE = "adamw"
# Grids of other keys make several rows of an optimizer.
_NAMES_OF_CELLS = {"optimizer", "seed", "model", "dataset"}


def commands(arguments: Sequence[str]) -> list[list[str]]:
    """Return the commands of the study that ``arguments`` compose, each by its name.

    Raises:
        UserError: they name no study, or its run of exponents is not one run.
    """
    with composing() as loader:
        master = master_config(loader, arguments)
        study = study_of(master)
        if master.sweep is None or (study.exponents is None and study.tuning is None):
            raise UserError("no study; name one of sweeps/, such as +sweeps=study_a_small")
        made, more = [], list(arguments)
        if study.exponents is not None and master.exponents is None:
            apart = {_key(one) for one in study.exponents} | {"sweep", "tuned"}
            own = [one for one in arguments if _key(one) not in apart]
            own += [*study.exponents, f"sweep={master.sweep}_exponents"]
            made.append(["train", "-m", *own])
            more.append(f"exponents={_folder(loader, own) / EXPONENTS}")
        if study.tuning is not None:
            made.append(["tune", *more])
    made.append(["train", "-m", *more, *(() if master.tuned else ("tuned=true",))])
    table = ["tables", f"source={master.runs_dir}", f"sweep={master.sweep}"]
    table += [f"metric={study.registered.outcome}"] if study.registered is not None else []
    made.append([*table, *_compared(master)])
    return made


def _compared(master: DictConfig) -> list[str]:
    """Return the options that compare with AdamW, where the grid makes it a row of that name."""
    values: dict[str, set[str]] = defaultdict(set)
    for override in chain.from_iterable(combinations(master)):
        values[_key(override)].add(override.partition("=")[2])
    varied = {key for key, several in values.items() if len(several) > 1}
    beside = varied <= _NAMES_OF_CELLS and values["optimizer"] > {_BASELINE}
    return [f"baseline={_BASELINE}", "spread=interval"] if beside else []


def reminder(arguments: Sequence[str]) -> str | None:
    """Return what to do first where a study declares a registration and has none."""
    with composing() as loader:
        master = master_config(loader, arguments)
    if study_of(master).registered is None or find(str(master.sweep)) is not None:
        return None
    return (
        f"{master.sweep} is not registered: its verdicts will be `found afterwards`; to "
        f"register it before its first run: {program()} study register {' '.join(arguments)}"
    )


def _key(override: str) -> str:
    return override.partition("=")[0]


def _folder(loader: ConfigLoader, overrides: Sequence[str]) -> Path:
    """Return the folder of the one run of a multirun."""
    master = master_config(loader, overrides)
    composer = Composer(loader, master, elsewhere=True)
    runs = [composer.job(one) for one in combinations(master)]
    if len(runs) != 1:
        raise UserError(f"study.exponents: it is {len(runs)} runs, and must be one")
    if isinstance(runs[0], Invalid):
        raise UserError(f"study.exponents: {runs[0].reason}")
    return run_folder(runs[0].config, runs[0].identity.id).path


def main(arguments: Sequence[str]) -> None:
    """Print the help page, or carry out a study.

    Raises:
        RunsFailedError: a step failed; its own output says why.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return
    steps = commands(arguments)
    if said := reminder(arguments):
        print(said, flush=True)
    carry_out(steps, "the study")


if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1:]))
