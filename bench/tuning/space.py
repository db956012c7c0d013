"""Which settings of an optimizer are searched: as a study names them, else as declared for all.

The declaration for all is conf/tuning_space.yaml. It speaks of keys and of nothing else, so it
holds for any optimizer's file, a user's own among them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict

from bench import files
from bench.errors import UserError
from bench.tuning.search import Range

_FILE = "tuning_space.yaml"
_DIGITS = 4  # significant ones of a tied value, as of a searched one


@dataclass(frozen=True)
class Tie:
    """A setting that is ``ratio`` times that of the searched ``key``."""

    key: str
    ratio: float

    def value(self, settings: Mapping[str, float]) -> float:
        """Return the setting that goes with searched ``settings``."""
        return float(f"{self.ratio * settings[self.key]:.{_DIGITS}g}")


class _Searched(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: list[str]
    times: tuple[float, float]
    zero: tuple[float, float] | None = None


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    search: list[_Searched]
    ties: dict[str, str]


@functools.cache
def _declared() -> _Declared:
    plain = OmegaConf.to_container(OmegaConf.load(files.conf_dir() / _FILE))
    return _Declared.model_validate(plain)


def declared_ties() -> dict[str, str]:
    """Return the keys that follow another, as declared for all optimizers."""
    return dict(_declared().ties)


def declared_space(optimizer: str, values: Mapping[str, Any]) -> dict[str, Range]:
    """Return the ranges that are declared for all, around an optimizer's own values.

    Args:
        optimizer: its name, for messages.
        values: the plain composed config, as files and overrides have it.

    Raises:
        UserError: none of the declared keys is there, or a range cannot be around its value.
    """
    ranges = {}
    for searched in _declared().search:
        key = next((key for key in searched.keys if _number(values, key) is not None), None)
        if key is None:
            continue
        default = _number(values, key) or 0.0
        low, high = (default * times for times in searched.times)
        if default == 0 and searched.zero is not None:
            low, high = searched.zero
        if low <= 0:
            raise UserError(
                f"study.tuning.space: no range around {key}={default:g} of optimizer={optimizer}; "
                f"name one in study.tuning.space.{optimizer}"
            )
        ranges[key] = Range(float(f"{low:.{_DIGITS}g}"), float(f"{high:.{_DIGITS}g}"))
    if not ranges:
        keys = [key for searched in _declared().search for key in searched.keys]
        raise UserError(
            f"study.tuning.space: optimizer={optimizer} has none of {_listed(keys)}; name what is "
            f"searched in study.tuning.space.{optimizer}"
        )
    return ranges


def tied(
    ties: Mapping[str, str], searched: Mapping[str, Range], values: Mapping[str, Any]
) -> dict[str, Tie]:
    """Return the settings that follow searched ones, in the ratio that ``values`` have.

    A tie of a key that is not there, or to one that is not searched, is none.

    Raises:
        UserError: the two values have no ratio.
    """
    followers = {}
    for key, leader in ties.items():
        follower, leading = _number(values, key), _number(values, leader)
        if follower is None or leader not in searched:
            continue
        if not leading:
            raise UserError(f"study.tuning.ties: {key} has no ratio to {leader}={leading}")
        followers[key] = Tie(leader, float(f"{follower / leading:.{_DIGITS}g}"))
    return followers


def _number(values: Mapping[str, Any], key: str) -> float | None:
    """Return the number at a dotted key; None where there is none."""
    value: Any = values
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if isinstance(value, bool) or not isinstance(value, int | float) else float(value)


def _listed(keys: Sequence[str]) -> str:
    return f"{', '.join(keys[:-1])} and {keys[-1]}" if len(keys) > 1 else keys[0]
