"""What a claim is: a statement, the value it states, and the quantity of ours that tests it.

A claim's column may be derived from those of the exponents table (`column`).
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

_QUARTERS = [f"alpha_quarter{i}" for i in range(1, 5)]


def column(table: pd.DataFrame, name: str) -> pd.Series[float]:
    """Return column ``name`` of ``table`` as floats (true is 1), derived where need be.

    Raises:
        KeyError: the table has neither this column nor those that it follows from.
    """
    if name not in table.columns and name in _DERIVED:
        return _DERIVED[name](table)
    values = pd.to_numeric(table[name], errors="coerce").astype("Float64")
    return values.astype("float64").replace([np.inf, -np.inf], np.nan)


def _won_by(model: str) -> Callable[[pd.DataFrame], pd.Series[float]]:
    def won(table: pd.DataFrame) -> pd.Series[float]:
        winner = table["rank_model"]
        return (winner == model).astype("float64").where(winner.notna())

    return won


def _less(left: str, right: str) -> Callable[[pd.DataFrame], pd.Series[float]]:
    def less(table: pd.DataFrame) -> pd.Series[float]:
        a, b = column(table, left), column(table, right)
        return (a < b).astype("float64").where(a.notna() & b.notna())

    return less


def _in_band(name: str, low: float, high: float) -> Callable[[pd.DataFrame], pd.Series[float]]:
    def inside(table: pd.DataFrame) -> pd.Series[float]:
        values = column(table, name)
        return values.between(low, high).astype("float64").where(values.notna())

    return inside


def _quarter_spread(table: pd.DataFrame) -> pd.Series[float]:
    quarters = pd.concat([column(table, name) for name in _QUARTERS], axis=1)
    spread = quarters.max(axis=1) - quarters.min(axis=1)
    return spread.where(quarters.notna().all(axis=1))


def _leverage(table: pd.DataFrame) -> pd.Series[float]:
    return (column(table, "alpha") - column(table, "alpha_without_first")).abs()


def _factor_match(table: pd.DataFrame) -> pd.Series[float]:
    """Whether either factor's spectrum has the gradient's rank model, as the preprint counts."""
    models = table[["rank_model", "delta_model", "input_model"]]
    own = models["rank_model"]
    either = (models["delta_model"] == own) | (models["input_model"] == own)
    return either.astype("float64").where(models.notna().all(axis=1))


def _effective_rank_rule(table: pd.DataFrame) -> pd.Series[float]:
    """Whether an effective rank of C_A below 10 goes with exponential, another with log-normal."""
    rank, model = column(table, "input_rank"), table["rank_model"]
    expected = rank.lt(10).map({True: "exponential", False: "lognormal"})
    return (expected == model).astype("float64").where(rank.notna() & model.notna())


def _distance(table: pd.DataFrame) -> pd.Series[float]:
    return (column(table, "alpha") - 2).abs()


def _error(table: pd.DataFrame) -> pd.Series[float]:
    return column(table, "triangle_relative_error").abs()


_DERIVED: dict[str, Callable[[pd.DataFrame], pd.Series[float]]] = {
    "identity_error": _error,
    "better_than_noise": _less("identity_error", "null_noise_error"),
    "power_law_won": _won_by("power_law"),
    "exponential_won": _won_by("exponential"),
    "lognormal_won": _won_by("lognormal"),
    "weight_gamma_below_s": _less("weight_gamma", "s"),
    "weight_tail_below_s": _less("weight_tail", "s"),
    "alpha_near_two": _in_band("alpha", 1.85, 2.15),
    "alpha_quarter_spread": _quarter_spread,
    "alpha_leverage": _leverage,
    "alpha_distance": _distance,
    "factor_match": _factor_match,
    "effective_rank_rule": _effective_rank_rule,
    "pr_h_in_range": _in_band("pr_h", 1.0, 1.8),
    "pr_sigma_in_range": _in_band("pr_sigma", 1.8, 58.0),
}

FILE = Path(__file__).parent / "claims.yaml"

When = Literal["trained", "start", "last", "any"]
Statistic = Literal["mean", "median", "sd", "min", "max", "share"]
Scalar = bool | int | float | str


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _ends(low: float | None, high: float | None) -> tuple[float, float]:
    """Return both, infinite where open."""
    return float("-inf") if low is None else low, float("inf") if high is None else high


class Rule(_Strict):
    """Which values agree with the claim: exactly one of the forms ``about`` + ``within``,
    ``at_least``, ``at_most``, ``between``; ends included.
    """

    about: float | None = None
    within: float | None = Field(None, gt=0)
    at_least: float | None = None
    at_most: float | None = None
    between: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Rule:
        forms = (self.about, self.at_least, self.at_most, self.between)
        if sum(form is not None for form in forms) != 1:
            raise ValueError("give exactly one of about, at_least, at_most, between")
        if (self.about is None) != (self.within is None):
            raise ValueError("about and within belong together")
        if self.between is not None and self.between[0] >= self.between[1]:
            raise ValueError("between needs its lower end first")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """The accepted values, from and to; infinite where open."""
        if self.about is not None and self.within is not None:
            return self.about - self.within, self.about + self.within
        if self.between is not None:
            return self.between
        return _ends(self.at_least, self.at_most)


class Range(_Strict):
    """Numbers from ``at_least`` to ``at_most``, ends included; open where one is not given."""

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _has_ends(self) -> Range:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        if self.ends[0] > self.ends[1]:
            raise ValueError("at_least is above at_most")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest; infinite where open."""
        return _ends(self.at_least, self.at_most)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, Real) and self.ends[0] <= float(value) <= self.ends[1]

    def __str__(self) -> str:
        if self.at_most is None:
            return f"at least {self.at_least:.10g}"
        if self.at_least is None:
            return f"at most {self.at_most:.10g}"
        return f"{self.at_least:.10g} to {self.at_most:.10g}"


Wanted = Scalar | Range | list[Scalar]


class Quantity(_Strict):
    """A statistic of one column over the layers (or another table's rows) that fit ``where``.

    ``column`` is one of the exponents table's, of the runs' summaries (``table: runs``), of the
    Hessian's blocks (``blocks``), of the landscape's points of weights (``points``), or of
    `analysis.claim.model`. ``when``: each run's last epoch if it has trained (trained), its epoch
    0 (start), its last measured epoch (last), or every epoch (any). Values in ``where`` are wanted
    values or fnmatch patterns, one or a list, or a range of numbers. With ``versus``, the same
    statistic where these conditions replace the first (the key ``when`` included) is subtracted, or
    divided by.
    """

    column: str
    statistic: Statistic = "median"
    table: Literal["layers", "runs", "blocks", "points"] = "layers"
    when: When = "trained"
    where: dict[str, Wanted] = {}
    versus: dict[str, Wanted] | None = None
    relation: Literal["difference", "ratio"] = "difference"
    at_least: int = Field(3, ge=1, description="fewer values (on either side) are no measurement")


class Claim(_Strict):
    """One claim. Without a quantity it can't be measured, and ``reason`` says why."""

    id: str
    source: str  # number in the paper's list of claims, and where it is made
    statement: str
    stated: str
    rule: Rule | None = None
    quantity: Quantity | None = None
    nulls: list[str] = []  # columns of the same identity without its cause
    unit: Literal["", "%"] = ""
    reason: str | None = None

    @model_validator(mode="after")
    def _can_be_judged(self) -> Claim:
        if (self.quantity is None) != (self.rule is None):
            raise ValueError(f"{self.id}: quantity and rule belong together")
        if (self.quantity is None) == (self.reason is None):
            raise ValueError(f"{self.id}: give a quantity, or the reason why there is none")
        return self


def load_claims(path: Path = FILE) -> list[Claim]:
    """Return the claims in ``path``.

    Raises:
        ValueError: not YAML, a wrong or missing field, or an id given twice; one line.
        OSError: the file cannot be read.
    """
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, list) or not raw:
        raise ValueError(f"{path}: expected a list of claims")
    claims = []
    for number, entry in enumerate(raw, 1):
        name = entry.get("id", number) if isinstance(entry, dict) else number
        try:
            claims.append(Claim.model_validate(entry))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"{path}: claim {name}: {where}: {message}") from error
    ids = [claim.id for claim in claims]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: claim {twice[0]} is there twice")
    return claims
