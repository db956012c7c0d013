"""What a file of sweeps/ says beyond its grid: its question, its cost, and how it is tuned.

study:
  question: Which optimizer is best?
  part_of: study (a)
  notes: [Seeds 5 to 9 were added later.]
  cost: {seconds: 652, device: NVIDIA H200, measured: true}
  exponents: [optimizer=adamw, seed=1000]    the run on which measured exponents are measured
  looks: 2                                   seeds were added once, to results that had been seen
  contrasts: [[muon, muon_scrambled]]        to be compared, beside AdamW and Muon with all
  tuning:
    trials: 12                               of each optimizer
    ...                                      `Tuning`

Nothing of it enters a run's config, hence its id. Which trials a search makes: bench.tuning.search.
Where a study names no space, conf/tuning_space.yaml declares it: bench.tuning.space.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from bench.errors import UserError, suggestion
from bench.files import home
from bench.registration import Registered
from bench.tuning.search import Covering, Method, Narrowing, Range, Search
from bench.tuning.settings import FIRST_TUNING_SEED
from bench.tuning.space import Tie, declared_space, declared_ties, tied

Metric = Literal["val/accuracy", "val/loss"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


# What a smaller run may differ in from the report's: not in what is compared.
_SMALLER = ("trainer", "dataset", "model", "schedule")


class Tuning(_Strict):
    """How a study's optimizers are tuned, each by the same rules.

    Attributes:
        trials: settings tried of each optimizer, diverged ones included.
        extension: how many of them follow an edge or refine, one at a time; 0 for narrow.
        metric: of the validation split, at a run's end.
        seeds: each trial's runs; its score is their mean.
        method: which trials (bench.tuning.search); where it is left out narrow, or grid where there
            is an extension.
        epochs: of a trial; None for as many as the report's runs have.
        at: overrides that make a trial a smaller run than the report's.
        space: the ranges of each optimizer, by dotted key; None (default): those declared for all
            (bench.tuning.space).
        ties: keys that follow a searched one, in the ratio of the optimizer's file; None: those
            declared for all where the space is too, else none.
        known: what was known before the first trial, a sentence each.
    """

    trials: int = Field(ge=2)
    extension: int = Field(0, ge=0)
    metric: Metric = "val/accuracy"
    seeds: list[Annotated[int, Field(ge=FIRST_TUNING_SEED)]] = Field(
        [FIRST_TUNING_SEED, FIRST_TUNING_SEED + 1, FIRST_TUNING_SEED + 2], min_length=1
    )
    method: Method = "narrow"
    epochs: int | None = Field(None, gt=0)
    at: list[str] = []
    space: dict[str, dict[str, Range]] | None = None
    ties: dict[str, str] | None = None
    known: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("extension") is not None:
            return {"method": "grid", **given}
        return given

    @field_validator("space", mode="before")
    @classmethod
    def _named(cls, space: Any) -> Any:
        return None if space == "default" else space

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{seeds} names a seed twice")
        return seeds

    @field_validator("at")
    @classmethod
    def _smaller(cls, overrides: list[str]) -> list[str]:
        for override in overrides:
            key, equals, _ = override.partition("=")
            group, dot, _ = key.partition(".")  # without one, a run of another name
            if not (equals and dot) or group not in _SMALLER:
                raise ValueError(
                    f"{override} is no option of {', '.join(_SMALLER)}, such as trainer.epochs=4"
                )
        return overrides

    @model_validator(mode="after")
    def _consistent(self) -> Tuning:
        if self.method == "narrow" and self.extension:
            raise ValueError(
                f"method: narrow has no extension={self.extension}; leave that out, or use "
                "method: grid or halton"
            )
        return self

    def ranges(self, optimizer: str, values: Mapping[str, Any]) -> dict[str, Range]:
        """Return what is searched for ``optimizer``, by dotted key.

        ``values``: the composed config, plain.

        Raises:
            UserError: there is no space for it.
        """
        if self.space is None:
            return declared_space(optimizer, values)
        if optimizer not in self.space:
            known = suggestion(optimizer, self.space)
            raise UserError(f"study.tuning.space: nothing for optimizer={optimizer}; {known}")
        return self.space[optimizer]

    def tied(self, searched: Mapping[str, Range], values: Mapping[str, Any]) -> dict[str, Tie]:
        """Return what follows the searched keys, by dotted key.

        Raises:
            UserError: two tied values have no ratio.
        """
        declared = declared_ties() if self.space is None else {}
        return tied(declared if self.ties is None else self.ties, searched, values)

    def search(self, optimizer: str, searched: Mapping[str, Range]) -> Search:
        """Return the search for one optimizer.

        Raises:
            UserError: it cannot be covered by so many trials.
        """
        ranges = tuple(searched.values())
        try:
            if self.method == "narrow":
                return Narrowing(ranges, self.trials)
            return Covering(ranges, self.trials, self.extension, self.method)
        except ValueError as error:
            raise UserError(f"study.tuning: optimizer={optimizer}: {error}") from error

    def oriented(self, value: float) -> float:
        """Return a metric's value so that larger is better."""
        return -value if self.metric == "val/loss" else value


class SweepCost(_Strict):
    """Seconds of ``device`` that a whole sweep takes, its tuning included; else an estimate."""

    seconds: float = Field(gt=0)
    device: str
    measured: bool

    def __str__(self) -> str:
        seconds = self.seconds
        minutes = f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
        return f"{minutes} on {self.device}, {'measured' if self.measured else 'estimated'}"


class Study(_Strict):
    """What a sweep file says of itself: see the module.

    Attributes:
        question: what it is to answer, in one sentence.
        part_of: the study, or the experiment of the preprint, to which it belongs.
        notes: what a reader of its results must know, a sentence each.
        cost: None where nobody knows.
        exponents: overrides.
        tuning: None for none.
        looks: how many interim analyses: how often its results were looked at while seeds were
            added, the last time counted.
        contrasts: pairs of optimizers.
        registered: what is settled before the first report run (bench.registration).
    """

    question: str | None = None
    part_of: str | None = None
    notes: list[str] = []
    cost: SweepCost | None = None
    exponents: list[str] | None = None
    tuning: Tuning | None = None
    looks: int = Field(1, ge=1)
    contrasts: list[tuple[str, str]] = []
    registered: Registered | None = None

    @field_validator("contrasts")
    @classmethod
    def _of_two(cls, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        if same := [one for one, other in pairs if one == other]:
            raise ValueError(f"{same[0]} cannot be compared with itself")
        if len({frozenset(pair) for pair in pairs}) < len(pairs):
            raise ValueError("a pair stands there twice")
        return pairs


def looks_of(sweep: str) -> int:
    """Return how many interim analyses the sweep's file declares; 1 without.

    Raises:
        UserError: as `study_of`.
    """
    path = home() / "sweeps" / f"{sweep}.yaml"
    return study_in(path).looks if path.is_file() else 1


def study_in(file: Path) -> Study:
    """Return what a sweep file says of itself, the file taken alone.

    Raises:
        UserError: as `study_of`.
    """
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return study_of(config)


def study_of(master: DictConfig | Mapping[str, Any]) -> Study:
    """Return the study of a composed config; one without anything where it names none.

    Raises:
        UserError: a key or value that is not valid.
    """
    node = master.get("study")
    plain = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    try:
        return Study.model_validate(plain or {})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(["study", *map(str, problem["loc"])])
        message = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {message[0].lower()}{message[1:]}") from error
