"""Freeze a study's plan before its first report run, and compare the runs with it later.

    spectral-bench study register +sweeps=study_x   writes sweeps/registered/study_x.json
    spectral-bench study status +sweeps=study_x     plan and runs beside what was registered

The file is to be committed. Both take the overrides that `spectral-bench study` is to get. What is
registered is `study.registered` of the sweep file (bench/registration.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bench.cli import guarded
from bench.compose import composing
from bench.errors import PROJECT, UserError, suggestion
from bench.files import home, is_name, write_json
from bench.launch.grid import Composer, Job, combinations, master_config
from bench.past_runs import PastRun, past_runs
from bench.provenance import git_state
from bench.registration import (
    Pair,
    RegisteredPlan,
    Registration,
    began_before,
    file_hash,
    file_of,
    find,
    flat,
    is_binding,
    places,
)
from bench.tuning.spec import study_of

# Grids of other keys make several rows of an optimizer.
_AXES = ("optimizer", "seed", "model", "dataset")
# The plan has these by themselves, or they only say what a reader is told.
_IN_PLAN = {*_AXES, "trainer.epochs", "sweeps"}
_OF_STUDY = ("registered", "looks", "tuning", "contrasts", "question", "part_of", "notes", "cost")


@dataclass(frozen=True)
class Asked:
    """A study that a command line composes."""

    study: str
    sweep_file: Path
    runs_dir: Path
    plan: RegisteredPlan

    def report_runs(self) -> list[PastRun]:
        """Return the study's report runs in its runs_dir and in results/."""
        return [run for run in past_runs(self.runs_dir) if run.reports(self.study)]


def compose(arguments: Sequence[str]) -> Asked:
    """Return the study that ``arguments`` compose, with its plan.

    Raises:
        UserError: they name no study, or one that cannot be registered.
    """
    with composing() as loader:
        master = master_config(loader, arguments)
        grid = combinations(master)
        composer = Composer(loader, master, elsewhere=True)
        tuning = _settled_tuning(composer, master, grid)
        configs = _settled_configs(composer, grid, tuning)
    sweep = master.hydra.runtime.choices.get("sweeps")
    if sweep is None or master.sweep is None:
        raise UserError("no study; name one of sweeps/, such as +sweeps=demo_study")
    if not is_name(master.sweep):
        raise UserError(f"sweep={master.sweep}: no name for a file; give another")
    file = _sweep_file(master, str(sweep))
    plan = _plan(master, grid, file, arguments).model_copy(
        update={"tuning": tuning, "configs": configs}
    )
    return Asked(str(master.sweep), file, Path(master.runs_dir), plan)


def _sweep_file(master: DictConfig, name: str) -> Path:
    """Return where Hydra found a sweep file: on the first place of its search path."""
    sources = [one.path for one in master.hydra.runtime.config_sources if one.schema == "file"]
    return next(path for one in sources if (path := Path(one, "sweeps", f"{name}.yaml")).is_file())


def _plan(
    master: DictConfig, grid: Sequence[Sequence[str]], file: Path, arguments: Sequence[str]
) -> RegisteredPlan:
    study = study_of(master)
    if study.registered is None:
        raise UserError(
            f"sweeps/{file.name}: no study.registered in it; declare outcome and primary "
            "comparisons there (docs/comparing.md, Registering a study)"
        )
    values: dict[str, dict[str, None]] = {}
    for key, _, value in (one.partition("=") for one in chain.from_iterable(grid)):
        values.setdefault(key, {})[value] = None
    if others := [key for key, several in values.items() if len(several) > 1 and key not in _AXES]:
        raise UserError(
            f"{others[0]}: the grid has several values of it, so that an optimizer has several "
            "rows; make each a file of its own in conf/optimizer/, or a study of its own"
        )
    chosen = {key: list(values.get(key, {master.hydra.runtime.choices.get(key): None}))
              for key in ("optimizer", "model", "dataset")}  # fmt: skip
    primary, secondary = study.registered.comparisons(chosen["optimizer"])
    asked = study.registered
    return RegisteredPlan(
        outcome=asked.outcome,
        primary=tuple(primary),
        secondary=tuple(secondary),
        margin=asked.margin,
        stopping=asked.stopping,
        predicted=asked.predicted,
        known=tuple(asked.known),
        horizon=int(next(iter(values.get("trainer.epochs", {master.trainer.epochs: None})))),
        seeds=tuple(sorted(int(one) for one in values.get("seed", {str(master.seed): None}))),
        optimizers=tuple(sorted(chosen["optimizer"])),
        models=tuple(sorted(chosen["model"])),
        datasets=tuple(sorted(chosen["dataset"])),
        looks=study.looks,
        tuning=None,
        overrides=tuple(sorted(one for one in arguments if _counts(one))),
        file=file_hash(file),
    )  # fmt: skip


def _settled_tuning(
    composer: Composer, master: DictConfig, grid: Sequence[Sequence[str]]
) -> dict[str, Any] | None:
    """Return `study.tuning` with every default written out: what is searched of each optimizer."""
    tuning = study_of(master).tuning
    if tuning is None:
        return None
    spaces: dict[str, Any] = {}
    for overrides in grid:
        chosen = {key: value for key, _, value in (one.partition("=") for one in overrides)}
        label = _label(overrides)
        if label in spaces:
            continue
        values = composer.values([one for one in overrides if not one.startswith("tuned=")])
        optimizer = chosen.get("optimizer", master.hydra.runtime.choices.get("optimizer"))
        searched = tuning.ranges(optimizer, values)
        spaces[label] = {key: asdict(its) for key, its in searched.items()}
        spaces[label] |= {key: asdict(its) for key, its in tuning.tied(searched, values).items()}
    return tuning.model_dump(mode="json", exclude={"space", "ties"}) | {"space": spaces}


def _label(overrides: Sequence[str]) -> str:
    """Return what a row of the grid is called: its optimizer, and model and dataset if named."""
    chosen = {key: value for key, _, value in (one.partition("=") for one in overrides)}
    return " ".join(chosen[key] for key in _AXES if key != "seed" and key in chosen)


# What two runs of a row differ in, and what names them.
_OF_A_RUN = ("seed", "sweep", "tuned", "names", "exponents")


def _settled_configs(
    composer: Composer, grid: Sequence[Sequence[str]], tuning: dict[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """Return what the report runs' configs hold, but for what is searched; a row's first seed's.

    A row that cannot be composed yet, since its exponents are still to be measured, is left out.
    """
    configs: dict[str, dict[str, Any]] = {}
    for overrides in grid:
        label = _label(overrides)
        job = None
        if label not in configs:
            job = composer.job([one for one in overrides if not one.startswith("tuned=")])
        if isinstance(job, Job):
            searched = (tuning or {"space": {}})["space"].get(label, {})
            whole = flat(job.config.model_dump(mode="json"))
            configs[label] = {
                key: value for key, value in whole.items()
                if key not in searched and key.split(".")[0] not in _OF_A_RUN and is_binding(key)
            }  # fmt: skip
    return configs


def _counts(override: str) -> bool:
    """Whether an override could change a result in a way that the plan's other keys do not say."""
    key = override.partition("=")[0].lstrip("+~")
    if key in _IN_PLAN or any(key.startswith(f"study.{own}") for own in _OF_STUDY):
        return False
    return is_binding(key)


# -- register --------------------------------------------------------------------------------------


def register(arguments: Sequence[str]) -> None:
    """Freeze the plan of the study that ``arguments`` compose, and print it.

    Raises:
        UserError: it has report runs, or another plan was registered under its name; or it cannot
            be registered.
    """
    asked = compose(arguments)
    known = find(asked.study)
    if known is not None and not known.plan.differences(asked.plan):
        print(f"{asked.study}: registered already, {known.time}, sha256 {known.hash}")
        return
    runs = asked.report_runs()
    if known is not None:
        raise UserError(_another(asked, known, begun=bool(runs)))
    if runs:
        first = min((run.started for run in runs if run.started), default="a time not recorded")
        raise UserError(
            f"{asked.study}: it has {len(runs)} report run{'s' if runs[1:] else ''} already, since "
            f"{first}; it cannot be registered, and what it shows stays `found afterwards`. Give "
            "new runs a study of their own, with seeds that have not been seen"
        )
    made = Registration(
        asked.study, datetime.now(UTC).isoformat(timespec="seconds"), asked.plan.hash,
        asked.sweep_file.stem, _suite(), git_state(home())["commit"], asked.plan,
    )  # fmt: skip
    path = _place(asked.sweep_file) / f"{asked.study}.json"
    try:
        path.parent.mkdir(exist_ok=True, parents=True)
        write_json(path, made.as_json())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    print("\n".join(describe(made)))
    shown = os.path.relpath(path)
    print(f"written to {shown}")
    print(f"next: git add {shown} and commit it; then spectral-bench study {' '.join(arguments)}")


def _another(asked: Asked, known: Registration, *, begun: bool) -> str:
    path = file_of(asked.study)
    assert path is not None
    way_out = (
        "a changed plan is another study: give it a name of its own (sweep=<name>)"
        if begun
        else f"no report run of it began yet: remove {os.path.relpath(path)} to register anew"
    )
    changed = "; ".join(known.plan.differences(asked.plan))
    return f"{asked.study}: another plan was registered, {known.time} ({changed}); {way_out}"


def _place(sweep_file: Path) -> Path:
    """Return the folder for the registration of a sweep file: see `bench.registration.places`."""
    ours = home() / "sweeps"
    in_checkout = sweep_file.parent.resolve() == ours.resolve() and (home() / "bench").is_dir()
    return ours / "registered" if in_checkout else places()[0]


def _suite() -> str:
    try:
        return version(PROJECT)
    except PackageNotFoundError:  # a checkout that is only on the path
        return "not installed"


def describe(made: Registration) -> list[str]:
    """Return a registration as a person reads it, a line each."""
    plan = made.plan
    tuning = plan.tuning or {}
    length = f" of {tuning['epochs']} epochs" if tuning.get("epochs") else ""
    margin = (
        "none, so that `equivalent` is never said" if plan.margin is None else f"{plan.margin:g}"
    )
    lines = [
        f"{made.study}, registered {made.time}",
        f"outcome      {plan.outcome} after {plan.horizon} epochs",
        f"primary      {_pairs(plan.primary)}",
        f"secondary    {_pairs(plan.secondary) or 'none'}",
        f"margin       {margin}",
        f"runs         {len(plan.optimizers)} optimizers ({', '.join(plan.optimizers)}), seeds "
        f"{', '.join(map(str, plan.seeds))}, "
        f"{', '.join(plan.models)} on {', '.join(plan.datasets)}",
        f"stopping     {plan.stopping}; interim analyses: {plan.looks}",
    ]
    if tuning:
        lines.append(
            f"tuning       {tuning.get('trials')} trials{length} of each optimizer, seeds "
            f"{', '.join(map(str, tuning.get('seeds', ())))}"
        )
    lines += [f"predicted    {plan.predicted}"] if plan.predicted else []
    lines += [f"known        {one}" for one in plan.known]
    return [*lines, f"sha256       {made.hash}"]


def _pairs(pairs: Iterable[Pair]) -> str:
    return ", ".join(f"{method} - {other}" for method, other in pairs)


# -- status ----------------------------------------------------------------------------------------


def status(arguments: Sequence[str]) -> None:
    """Print whether a study is registered, whether its plan is still that, and how its runs stand.

    Raises:
        UserError: as `compose`.
    """
    asked = compose(arguments)
    known, runs = find(asked.study), asked.report_runs()
    if known is None:
        print(f"{asked.study}: not registered; {len(runs)} report runs began")
        if not runs:
            print(f"register it: spectral-bench study register {' '.join(arguments)}")
        return
    path = file_of(asked.study)
    assert path is not None
    print(f"{asked.study}: registered {known.time} in {os.path.relpath(path)}")
    print(f"sha256 {known.hash}")
    changed = known.plan.differences(asked.plan)
    print(f"plan: {'changed since: ' + '; '.join(changed) if changed else 'as registered'}")
    print("\n".join(_runs(known, runs)))


def _runs(known: Registration, runs: Sequence[PastRun]) -> list[str]:
    """Return how report runs stand to a registration, a line each."""
    before = [began_before(run.started, known.time) for run in runs]
    plan = known.plan
    cells = set(product(plan.optimizers, map(str, plan.seeds), plan.models, plan.datasets))
    done = {_cell(run) for run in runs if run.finished}
    lines = [
        f"runs: {before.count(False)} began after the registration, {before.count(True)} before it"
        + (f", {before.count(None)} at a time not recorded" if None in before else "")
    ]
    seeds = sorted({int(run.config["seed"]) for run in runs} - set(plan.seeds))
    lines.append(f"seeds outside the registration: {', '.join(map(str, seeds)) or 'none'}")
    missing = sorted(cells - done)
    lines.append(f"planned runs: {len(cells & done)} of {len(cells)} finished")
    if missing:
        some = "; ".join(f"{one[0]} seed {one[1]}" for one in missing[:3])
        lines.append(f"missing: {some}{f'; and {len(missing) - 3} more' if missing[3:] else ''}")
    return lines


def _cell(run: PastRun) -> tuple[str, ...]:
    names = run.config.get("names") or {}
    return (
        str(names.get("optimizer")), str(run.config.get("seed")),
        str(names.get("model")), str(names.get("dataset")),
    )  # fmt: skip


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"register": register, "status": status}


def main(arguments: Sequence[str]) -> None:
    """Print the help page, or carry out one command.

    Raises:
        UserError: there is no such command.
    """
    name, *rest = arguments or ["--help"]
    if {"-h", "--help"} & {name, *rest}:
        print(__doc__.strip())
        return
    if name not in COMMANDS:
        raise UserError(f"{name}: there is no such command; {suggestion(name, COMMANDS)}")
    COMMANDS[name](rest)


if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1:]))
