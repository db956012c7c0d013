"""What a file of sweeps/ says of a study beyond its grid: its exponents and how it is tuned.

study:
  exponents: [optimizer=adamw, seed=1000]    the run on which measured exponents are measured
  looks: 2                                   seeds were added once, to results that had been seen
  contrasts: [[muon, muon_scrambled]]        to be compared, beside AdamW and Muon with all
  tuning:
    trials: 6                                of each optimizer
    ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.errors import UserError, suggestion
from bench.paths import home
from bench.tuned import FIRST_TUNING_SEED
from bench.tuning.space import Method, Range, Search

Metric = Literal["val/accuracy", "val/loss"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Tuning(_Strict):
    """How a study's optimizers are tuned, all alike.

    Attributes:
        trials: settings tried of each optimizer, diverged ones included.
        extension: how many of them are decided by the scores of the others (bench.tuning.space).
        metric: of the validation split, at a run's end.
        seeds: each trial's runs; its score is their mean.
        method: of the trials that cover the space.
        epochs: of a trial; None for as many as the report's runs have.
        space: the ranges of each optimizer, by dotted key.
    """

    trials: int = Field(ge=2)
    extension: int = Field(ge=0)
    metric: Metric = "val/accuracy"
    seeds: list[Annotated[int, Field(ge=FIRST_TUNING_SEED)]] = Field(min_length=1)
    method: Method = "grid"
    epochs: int | None = Field(None, gt=0)
    space: dict[str, dict[str, Range]]

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{seeds} names a seed twice")
        return seeds

    def keys(self, optimizer: str) -> list[str]:
        """Return the dotted keys that are searched for ``optimizer``.

        Raises:
            UserError: the study declares no space for it.
        """
        if optimizer not in self.space:
            known = suggestion(optimizer, self.space)
            raise UserError(f"study.tuning.space: nothing for optimizer={optimizer}; {known}")
        return list(self.space[optimizer])

    def search(self, optimizer: str) -> Search:
        """Return the search for one optimizer.

        Raises:
            UserError: there is no space for it, or it cannot be covered by so many trials.
        """
        ranges = tuple(self.space[optimizer][key] for key in self.keys(optimizer))
        try:
            return Search(ranges, self.trials, self.extension, self.method)
        except ValueError as error:
            raise UserError(f"study.tuning: optimizer={optimizer}: {error}") from error

    def oriented(self, value: float) -> float:
        """Return a metric's value so that larger is better."""
        return -value if self.metric == "val/loss" else value


class Study(_Strict):
    """A study: see the module.

    Attributes:
        exponents: overrides.
        tuning: None for none.
        looks: how often its results were looked at while seeds were added, the last time counted.
        contrasts: pairs of optimizers.
    """

    exponents: list[str] | None = None
    tuning: Tuning | None = None
    looks: int = Field(1, ge=1)
    contrasts: list[tuple[str, str]] = []

    @field_validator("contrasts")
    @classmethod
    def _of_two(cls, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        if alike := [one for one, other in pairs if one == other]:
            raise ValueError(f"{alike[0]} cannot be compared with itself")
        if len({frozenset(pair) for pair in pairs}) < len(pairs):
            raise ValueError("a pair stands there twice")
        return pairs


def looks_of(sweep: str) -> int:
    """Return the looks that the sweep's file declares; 1 where it declares none, or is none.

    Raises:
        UserError: as `study_of`.
    """
    path = home() / "sweeps" / f"{sweep}.yaml"
    config = OmegaConf.load(path) if path.is_file() else OmegaConf.create()
    assert isinstance(config, DictConfig)
    return study_of(config).looks


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
