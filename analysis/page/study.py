"""A study: the question in its sweep file, its report runs, and the tuning runs before them.

The study of sweeps/<name>.yaml has its runs in results/<name>.parquet: those of the sweep <name>
are reported, those of <name>_tune chose the settings. Report seeds are below 1000; runs of the
sweep <name>_exponents, and of <name> with a seed from there on, prepared the others (they measured
their exponents).

`Output` is what a study's section leaves beside its text: figures, and its answer in short. `Plan`
is what its sweep file plans: the values along each axis of its grid, and which lack runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from analysis.run.archive import is_archive
from analysis.run.frame import prepared
from analysis.run.measured import Measured, load
from analysis.runs import load_runs
from bench.tuning.spec import Study as SweepStudy
from bench.tuning.spec import study_in, study_of


@dataclass
class Output:
    """Filled while a section is written.

    Args:
        folder: the figures' folder, as links on the page name it.
        figures: each by its file's name; its label is what it shows.
        answers: what the study found, each a few words for the page's first table.
    """

    folder: str
    figures: dict[str, Figure] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)

    def figure(self, name: str, figure: Figure, title: str) -> str:
        """Keep a figure, and return the Markdown that shows it."""
        figure.set_label(title)
        self.figures[name] = figure
        return f"![{title}]({self.folder}/{name})\n"


@dataclass(frozen=True)
class Plan:
    """The values along each axis, such as ``{"optimizer": ("sgd", "adamw"), "seed": (0, 1)}``.

    ``scored_by`` is what the tuning is scored by, such as "val/loss"; None without tuning.
    ``study``: what its file says of itself.
    """

    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    scored_by: str | None = None
    study: SweepStudy = field(default_factory=SweepStudy)

    @property
    def size(self) -> int:
        """How many runs the grid plans; 0 where it names none."""
        return math.prod(map(len, self.axes.values())) if self.axes else 0

    @property
    def first(self) -> str | None:
        """The first optimizer of the grid."""
        return next(iter(self.axes.get("optimizer", ())), None)

    def absent(self, runs: pd.DataFrame) -> dict[str, list[str]]:
        """Return the values, as typed, that none of ``runs`` has, by axis; of axes they tell.

        Args:
            runs: rows of `analysis.runs.load_runs`.
        """
        missing: dict[str, list[str]] = {}
        for axis, planned in self.axes.items():
            column = next((name for name in (axis, f"config.{axis}") if name in runs), None)
            if column is None or any(isinstance(value, list | dict) for value in planned):
                continue
            there = {None if pd.isna(value) else value for value in runs[column]}
            lacking = [_typed(value) for value in planned if value not in there]
            missing |= {axis: lacking} if lacking else {}
        return missing


def plan(path: Path | None) -> Plan:
    """Return what a sweep file plans; without axes where there is none, or one is no list."""
    config = OmegaConf.load(path) if path else OmegaConf.create()
    assert isinstance(config, DictConfig)
    study = study_of(config)
    scored_by = study.tuning.metric if study.tuning else None
    texts = [
        f"{axis}={values}"
        for axis, values in (OmegaConf.select(config, "hydra.sweeper.params") or {}).items()
    ]
    overrides = OverridesParser.create().parse_overrides(texts)
    if any(one.is_sweep_override() and not one.is_choice_sweep() for one in overrides):
        overrides = []  # range(...) and the like
    return Plan(
        {one.key_or_group: _values(one) for one in overrides},
        scored_by,
        study,
    )


def _typed(value: Any) -> str:
    return "null" if value is None else str(value)


def _values(override: Override) -> tuple[Any, ...]:
    """Return the values of one axis, as Hydra reads them."""
    several = override.is_sweep_override()
    every = list(override.sweep_iterator()) if several else [override.value()]
    return tuple(one.text if isinstance(one, QuotedString) else one for one in every)


_TUNING = "_tune"
_EXPONENTS = "_exponents"  # as bench.study names the sweep of the run that measures them


@dataclass(frozen=True)
class Header:
    """What a sweep file says of itself: question, notes and cost; the commands that make it."""

    text: str
    commands: tuple[str, ...]

    @property
    def question(self) -> str:
        """The first question asked, else the first sentence."""
        match = re.match(r".*?\?", self.text) or re.match(r".*?\.(?=\s|$)", self.text)
        return match[0] if match else self.text


@dataclass(frozen=True)
class Study:
    """One study; ``archive`` is None where it has not been run, ``planned`` what its file plans."""

    name: str
    header: Header
    archive: Path | None
    planned: Plan = field(default_factory=Plan)

    @cached_property
    def _runs(self) -> pd.DataFrame:
        if self.archive is None:
            return load_nothing()
        runs = load_runs(self.archive)
        sweeps = set(runs["sweep"])
        if not sweeps & {self.name, self.name + _TUNING}:
            names = ", ".join(sorted(map(str, sweeps)))
            raise ValueError(f"{self.archive}: no run of the sweep {self.name}; there are {names}")
        return runs

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The report runs.

        Raises:
            ValueError: a seed of theirs was used for tuning, or the archive is of another study.
        """
        whole, tuning = self._of(self.name), self.tuning
        report = whole[~prepared(whole)].reset_index(drop=True)
        check_disjoint(report, tuning, f"{self.archive}")
        return report

    @cached_property
    def tuned(self) -> bool:
        """Whether report runs say that their settings are tuned (``tuned=true``, or a folder)."""
        stated = self.runs.get("config.tuned", ())
        return any(isinstance(value, str) or value is True for value in stated)

    @cached_property
    def preparation(self) -> pd.DataFrame:
        """The runs of the study that no number is from."""
        whole = pd.concat([self._of(self.name), self._of(self.name + _EXPONENTS)])
        return whole[prepared(whole)].reset_index(drop=True)

    @cached_property
    def measured(self) -> Measured:
        """What its finished runs measured; there must be one of the report, or that prepared it."""
        return load([str(self.archive)])

    @cached_property
    def tuning(self) -> pd.DataFrame:
        """The runs that chose the settings."""
        return self._of(self.name + _TUNING)

    def _of(self, sweep: str) -> pd.DataFrame:
        return self._runs[self._runs["sweep"] == sweep].reset_index(drop=True)


def check_disjoint(report: pd.DataFrame, tuning: pd.DataFrame, where: str) -> None:
    """Raise ValueError where a seed of ``report`` is among those of ``tuning``."""
    both = set(report["seed"].dropna()) & set(tuning["seed"].dropna())
    if both:
        seeds = ", ".join(str(seed) for seed in sorted(both))
        raise ValueError(
            f"{where}: seed {seeds} is among the tuning runs and among the reported "
            "ones; a reported number must not have chosen its settings"
        )


def tuner(study: Study, everyone: Sequence[Study]) -> Study:
    """Return the study whose tuning runs chose the settings of ``study``.

    Itself where it has any, or says that it is not tuned; else the one that tuned most of its
    optimizers, on the same datasets and models, of equals the first; itself where there is none.

    Raises:
        ValueError: a seed is among those tuning runs and among the reported ones.
    """
    if len(study.tuning) or not study.tuned:
        return study
    ours = _places(study.runs)
    others = [one for one in everyone if one.archive is not None]
    best = max(others, key=lambda one: len(ours & _places(one.tuning)), default=study)
    if not ours & _places(best.tuning):
        return study
    check_disjoint(study.runs, best.tuning, f"{study.archive} and {best.archive}")
    return best


def _places(runs: pd.DataFrame) -> set[tuple[str, str, str]]:
    if runs.empty:
        return set()
    return set(zip(runs["dataset"], runs["model"], runs["optimizer"], strict=True))


def load_nothing() -> pd.DataFrame:
    """Return a frame of runs without runs."""
    return pd.DataFrame({"sweep": [], "seed": [], "state": []})


def studies(results: Path, sweeps: Path) -> list[Study]:
    """Return the studies by name: those with an archive, and those that only have a sweep file."""
    archives = {path.stem: path for path in results.glob("*.parquet") if is_archive(path)}
    files = {path.stem: path for path in sweeps.glob("study_*.yaml")}
    return [
        Study(name, header(files.get(name)), archives.get(name), plan(files.get(name)))
        for name in sorted(archives.keys() | files.keys(), key=_natural)
    ]


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key by which study_a_8 comes before study_a_30."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def header(path: Path | None) -> Header:
    """Return what a sweep file says of itself; empty where there is no file."""
    if path is None:
        return Header("", ())
    study = study_in(path)
    cost = f"Cost: {study.cost}." if study.cost else ""
    command = "study" if study.exponents or study.tuning else "train -m"
    text = " ".join(filter(None, [study.question, *study.notes, cost]))
    return Header(text, (f"spectral-bench {command} +sweeps={path.stem}",))


def values(runs: pd.DataFrame, column: str) -> list[str]:
    """Return the values in a column as they would be typed, sorted, each once."""
    if column not in runs:
        return []
    known = set(runs[column].dropna())
    numbers = sorted(v for v in known if not isinstance(v, str))
    return [f"{v:g}" if isinstance(v, float) else str(v) for v in numbers] + sorted(
        v for v in known if isinstance(v, str)
    )


def where(runs: pd.DataFrame, dataset: str, model: str) -> str:
    """Return "on resnet18 / cifar10 " where ``runs`` have several models or datasets; else ""."""
    several = len(runs[["model", "dataset"]].drop_duplicates()) > 1
    return f"on {model} / {dataset} " if several else ""


def span(seeds: Sequence[int]) -> str:
    """Return whole numbers shortly: 0-4, 7."""
    parts: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
