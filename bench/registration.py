"""What a study settles before its first report run, and whether a verdict keeps to it.

`study.registered` of a sweep file declares it:

  registered:
    outcome: test/accuracy
    primary: [[spectral_newton, muon]]   one to three comparisons, method and other
    secondary: [["*", adamw]]            "*": every other optimizer of the grid
    margin: 0.001                        the smallest difference that matters, in the outcome's unit
    stopping: fixed seeds
    predicted: muon                      the expected winner
    known: [Muon won at 8 epochs.]       what was known beforehand, a sentence each

`spectral-bench study register` freezes it, with horizon, seeds, models, datasets, optimizers,
interim analyses and tuning, into <study>.json in a folder of `places`, a small file to be committed
(bench/register.py). Its hash covers the plan: the same for any order of keys.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.errors import UserError, suggestion
from bench.files import home, is_name, read_json
from bench.identity import NOT_SCIENTIFIC, NOT_SCIENTIFIC_TRAINER

Pair = tuple[str, str]  # method and other: the difference is method minus other
Outcome = Literal[
    "test/accuracy", "test/loss", "val/accuracy", "val/loss", "train/loss",
    "best/test_accuracy", "best/val_accuracy",
    "target/step", "target/epoch", "target/seconds", "target/flops",
]  # fmt: skip
EVERY = "*"
# What primary, secondary and further comparisons get of the level, where any are registered.
SHARES = (0.8, 0.16, 0.04)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Registered(_Strict):
    """What a sweep file declares under ``study.registered``: see the module."""

    outcome: Outcome
    primary: list[Pair] = Field(min_length=1, max_length=3)
    secondary: list[Pair] = []
    margin: float | None = Field(None, gt=0, strict=True)
    stopping: str = Field("fixed seeds", min_length=1)
    predicted: str | None = None
    known: list[str] = []

    @field_validator("primary", "secondary")
    @classmethod
    def _comparisons(cls, pairs: list[Pair]) -> list[Pair]:
        if same := [one for one, other in pairs if one == other]:
            raise ValueError(f"{same[0]} cannot be compared with itself")
        if len({frozenset(pair) for pair in pairs}) < len(pairs):
            raise ValueError("a pair stands there twice")
        if wrong := [one for one, other in pairs if other == EVERY]:
            raise ValueError(f'write the "{EVERY}" first: ["{EVERY}", {wrong[0]}]')
        return pairs

    @field_validator("primary")
    @classmethod
    def _by_name(cls, pairs: list[Pair]) -> list[Pair]:
        if any(method == EVERY for method, _ in pairs):
            raise ValueError(f'"{EVERY}" is for secondary comparisons; name the primary ones')
        return pairs

    def comparisons(self, optimizers: Sequence[str]) -> tuple[list[Pair], list[Pair]]:
        """Return the primary and the secondary pairs, "*" written out, each once.

        Args:
            optimizers: those of the grid.

        Raises:
            UserError: a pair, or ``predicted``, names none of them.
        """
        named = [("primary", one) for pair in self.primary for one in pair]
        named += [("secondary", one) for pair in self.secondary for one in pair]
        named += [("predicted", self.predicted)] if self.predicted is not None else []
        for key, one in named:
            if one not in optimizers and not (key == "secondary" and one == EVERY):
                known = suggestion(one, optimizers)
                raise UserError(
                    f"study.registered.{key}: {one} is no optimizer of the grid; {known}"
                )
        listed = {frozenset(pair) for pair in self.primary}
        secondary = []
        for method, other in self.secondary:
            for one in sorted(optimizers) if method == EVERY else [method]:
                if one != other and frozenset((one, other)) not in listed:
                    listed.add(frozenset((one, other)))
                    secondary.append((one, other))
        return self.primary, secondary


class RegisteredPlan(_Strict):
    """What was settled.

    Attributes:
        outcome: the summary's number by which verdicts are said.
        primary, secondary: pairs of optimizers.
        margin: the smallest difference that matters, in the outcome's own unit.
        stopping: when the study ends.
        predicted: the expected winner.
        known: what was known beforehand.
        horizon: epochs of a report run.
        seeds: of the report runs.
        optimizers, models, datasets: of the grid.
        looks: interim analyses.
        tuning: `study.tuning` as the file has it: space, budget, seeds, length; None without.
        overrides: those of the command line that could change a result.
        file: `file_hash` of the sweep file.
        configs: of each optimizer (and model and dataset, where there are several) what a report
            run's config holds by dotted key, but for what tuning searches; None in registrations
            of before.
    """

    outcome: Outcome
    primary: tuple[Pair, ...]
    secondary: tuple[Pair, ...]
    margin: float | None
    stopping: str
    predicted: str | None
    known: tuple[str, ...]
    horizon: int
    seeds: tuple[int, ...]
    optimizers: tuple[str, ...]
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    looks: int
    tuning: dict[str, Any] | None
    overrides: tuple[str, ...]
    file: str
    configs: dict[str, dict[str, Any]] | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of the plan as canonical JSON."""
        return _sha256(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Return the plan as its file has it."""
        return self.model_dump(
            mode="json", exclude=None if self.configs is not None else {"configs"}
        )

    def differences(self, other: RegisteredPlan) -> list[str]:
        """Return "key: this value, now other's" for each key in which the two plans differ."""
        mine, theirs = (
            flat({key: value for key, value in one.as_json().items()
                  if key != "configs" or self.configs is not None})
            for one in (self, other)
        )  # fmt: skip
        keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        if keys == ["file"]:
            return ["file: another value of the sweep file"]
        return [
            f"{key}: {_short(mine.get(key))}, now {_short(theirs.get(key))}"
            for key in keys
            if key != "file"
        ]


@dataclass(frozen=True)
class Registration:
    """A plan that was frozen.

    Attributes:
        study: the sweep's name, under which its runs are grouped.
        time: when, UTC, ISO 8601 with seconds.
        hash: SHA-256 of the plan as canonical JSON.
        sweep_file: the name of the file in sweeps/.
        suite: version of this suite.
        commit: of its code, where it is a git checkout.
        plan: what was settled.
    """

    study: str
    time: str
    hash: str
    sweep_file: str
    suite: str
    commit: str | None
    plan: RegisteredPlan

    def as_json(self) -> dict[str, Any]:
        """Return the content of its file."""
        return {
            "study": self.study,
            "registered": self.time,
            "hash": self.hash,
            "sweep_file": self.sweep_file,
            "suite": self.suite,
            "commit": self.commit,
            "plan": self.plan.as_json(),
        }


# -- where registrations are -----------------------------------------------------------------------


def places() -> list[Path]:
    """Return the folders in which registrations are looked for, the first one first.

    That of the working directory, and that beside our own sweep files. The latter is written to
    where these are a checkout's.
    """
    here, ours = Path("sweeps", "registered"), home() / "sweeps" / "registered"
    return [here] if here.resolve() == ours.resolve() else [here, ours]


def find(study: str) -> Registration | None:
    """Return the registration of a study, None where it has none.

    Raises:
        UserError: its file is damaged, or was changed by hand.
    """
    path = file_of(study)
    return None if path is None else read(path)


def file_of(study: str) -> Path | None:
    """Return the file of a study's registration, None where it has none."""
    paths = [folder / f"{study}.json" for folder in places() if is_name(study)]
    return next((path for path in paths if path.is_file()), None)


def read(path: Path) -> Registration:
    """Return the registration in a file.

    Raises:
        UserError: the file is damaged, or was changed by hand.
    """
    content = read_json(path) or {}
    try:
        plan = RegisteredPlan.model_validate(content["plan"])
        texts = {key: str(content[key]) for key in ("study", "sweep_file", "suite")}
        time = datetime.fromisoformat(content["registered"]).isoformat(timespec="seconds")
        found = Registration(
            **texts, time=time, hash=content["hash"], commit=content["commit"], plan=plan
        )
    except (KeyError, TypeError, ValueError) as error:  # the last: pydantic's too
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
        raise UserError(f"{path}: no registration ({reason}); restore the file") from error
    # As it is in the file: a later suite may know more keys.
    if found.hash != _sha256(content["plan"]) or path.stem != found.study:
        raise UserError(f"{path}: it was changed after it was written; restore the file")
    return found


# What of `study` says what is compared and how; the rest is for readers, or printed besides.
_BINDING = ("registered", "looks", "tuning", "exponents")
# How far a target lies decides when it is reached.
_PLACES = NOT_SCIENTIFIC - {"target"}


def is_binding(key: str) -> bool:
    """Return whether a dotted key of a config could change a run's result."""
    root, _, rest = key.partition(".")
    if root in _PLACES or root.startswith("hydra"):
        return False
    return not (root == "trainer" and rest.partition(".")[0] in NOT_SCIENTIFIC_TRAINER)


def file_hash(path: Path) -> str:
    """Return SHA-256 of all in a sweep file that could change a result, its grid or its analysis.

    Comments, order of keys, notes, costs, contrasts, and where runs are carried out do not count.
    """
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    whole = OmegaConf.to_container(config, resolve=False)
    assert isinstance(whole, dict)
    kept = {str(key): value for key, value in whole.items() if is_binding(str(key))}
    study, grid = kept.pop("study", None) or {}, OmegaConf.select(config, "hydra.sweeper.params")
    if isinstance(kept.get("trainer"), dict):
        trainer = kept["trainer"].items()
        kept["trainer"] = {key: value for key, value in trainer if is_binding(f"trainer.{key}")}
    chosen = [json.dumps(one) for one in kept.pop("defaults", [])]
    return _sha256(
        kept
        | {
            "defaults": sorted(
                one for one in chosen if "hydra/" not in one and "tracker" not in one
            )
        }
        | {"study": {key: study[key] for key in _BINDING if key in study}}
        | {"grid": {str(key): _values(value) for key, value in (grid or {}).items()}}
    )


def _values(axis: Any) -> list[str]:
    """Return the values of a grid's axis, whatever their order and the spaces between them."""
    return sorted(re.sub(r"\s", "", str(axis)).split(","))


def current_file_hash(registration: Registration) -> str | None:
    """Return `file_hash` of the sweep file as it is now; None where it is not found."""
    paths = [folder.parent / f"{registration.sweep_file}.yaml" for folder in places()]
    return next((file_hash(path) for path in paths if path.is_file()), None)


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{above}{key}.")
        else:
            leaves[f"{above}{key}"] = value
    return leaves


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# -- whether a verdict keeps to it -----------------------------------------------------------------

Role = Literal["primary", "secondary"]


@dataclass(frozen=True)
class Badge:
    """How one comparison stands to its study's registration.

    Attributes:
        role: of the comparison in the registration, None where it is in none.
        reasons: why it is not as registered, a few words each; none: it is.
        seeds: how many of the registered seeds have a result.
        planned: how many seeds were registered.
    """

    role: Role | None
    reasons: tuple[str, ...]
    seeds: int = 0
    planned: int = 0

    @property
    def registered(self) -> bool:
        """Whether all is as registered; seeds may still be missing."""
        return not self.reasons

    @property
    def complete(self) -> bool:
        """Whether every registered seed has a result; before that there is no verdict."""
        return self.seeds == self.planned

    def __str__(self) -> str:
        if self.reasons:
            return "found afterwards"
        if not self.complete:
            return f"{self.seeds} of {self.planned} registered seeds"
        return "registered"


def badge(
    registration: Registration | None,
    *,
    pair: Pair,
    outcome: str,
    seeds: Mapping[int, str | None],
    horizon: float | None = None,
    model: str | None = None,
    dataset: str | None = None,
    current: str | None = None,
) -> Badge:
    """Return whether a comparison is the registered one.

    Args:
        registration: of the study; None where it has none.
        pair: the two optimizers, in either order.
        outcome: the number compared.
        seeds: when the runs of each compared seed began, the earlier of the two, as ISO 8601;
            None where that is not known. A seed that diverged counts, being a result.
        horizon: epochs of the runs; None: not checked, as the following ones.
        model: theirs.
        dataset: theirs.
        current: `current_file_hash`, once for many comparisons.
    """
    if registration is None:
        return Badge(None, ("not registered",))
    plan = registration.plan
    role = _role(plan, pair)
    reasons = [] if role else [f"{pair[0]} and {pair[1]} are no registered comparison"]
    if outcome != plan.outcome:
        reasons.append(f"outcome {outcome} is not the registered one ({plan.outcome})")
    if horizon is not None and horizon != plan.horizon:
        reasons.append(f"{horizon:g} epochs are not the registered {plan.horizon}")
    for one, planned in ((model, plan.models), (dataset, plan.datasets)):
        if one is not None and one not in planned:
            reasons.append(f"{one} was not registered")
    if more := sorted(set(seeds) - set(plan.seeds)):
        listed = ", ".join(map(str, more))
        were = "seed {} was" if len(more) == 1 else "seeds {} were"
        reasons.append(f"{were.format(listed)} not registered")
    reasons += _timing(registration, seeds.values())
    if current is not None and current != plan.file:
        reasons.append("the plan was changed after its registration")
    return Badge(role, tuple(reasons), len(set(seeds) & set(plan.seeds)), len(plan.seeds))


def _role(plan: RegisteredPlan, pair: Pair) -> Role | None:
    asked = frozenset(pair)
    if asked in map(frozenset, plan.primary):
        return "primary"
    return "secondary" if asked in map(frozenset, plan.secondary) else None


def _timing(registration: Registration, times: Iterable[str | None]) -> list[str]:
    known = [began_before(time, registration.time) for time in times]
    reasons = []
    for count, what in (
        (known.count(True), "began before the registration"),
        (known.count(None), "began at a time that is not recorded"),
    ):
        if count:
            reasons.append(f"{count} seed{'s' if count > 1 else ''} {what}")
    return reasons


def began_before(started: str | None, time: str) -> bool | None:
    """Return whether a run that began at ``started`` did so before ``time``; None: not known."""
    try:
        return datetime.fromisoformat(started) < datetime.fromisoformat(time) if started else None
    except (TypeError, ValueError):  # without a zone, or no time
        return None
