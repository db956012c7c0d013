"""From the arguments of a multirun to its runs: every combination, composed, checked and named.

Hydra takes tens of milliseconds to compose one config, and a grid may have thousands. Most of its
combinations differ in plain values only (``seed=3``, ``optimizer.lr=0.01``), so Hydra composes one
base for each combination of the other overrides, and plain values are put into copies of it. An
override counts as plain only where that cannot differ from what Hydra would do: it sets an
existing value by a scalar, and no interpolation speaks of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from bench import config
from bench.cli import COMPOSITION_ERRORS, explain
from bench.components import Known
from bench.compose import spelled_out
from bench.config import RunConfig
from bench.errors import MissingHereError, UserError
from bench.hydra_private import load_combination, load_multirun, split_combinations
from bench.identity import Identity, identify
from bench.tuning import settings
from bench.tuning.settings import replaced

_TOP_LEVEL = frozenset({"seed", "sweep", "runs_dir", "data_dir", "exponents"})
_WORD = re.compile(r"\w+")
# What Hydra's parser takes a millisecond for, and a grid of thousands has most: seed=17.
_INTEGER = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)=(0|[1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True)
class Job:
    """One combination of a grid: its overrides, its config, and the run that it names."""

    overrides: tuple[str, ...]
    config: RunConfig
    identity: Identity


@dataclass(frozen=True)
class Invalid:
    """One combination that is no run, and why; ``here``: it would be one on another machine."""

    overrides: tuple[str, ...]
    reason: str
    here: bool = False


class _Word(NamedTuple):
    """One override, read: a plain value and where it goes; no path: Hydra must handle it."""

    path: tuple[str, ...] | None
    value: Any
    merges: bool = False  # a mapping, which may merge into what a plain value sets


class _Base(NamedTuple):
    """What Hydra composed: plain values, chosen files, and the names in all interpolations."""

    values: dict[str, Any]
    choices: dict[str, str]
    spoken_of: frozenset[str]

    def takes(self, path: Sequence[str]) -> bool:
        """Whether a plain value may be put at ``path``."""
        if self.spoken_of.intersection(path):
            return False
        value: Any = self.values
        for part in path:
            if not isinstance(value, Mapping) or part not in value:
                return False
            value = value[part]
        return True


class Composer:
    """Composes the combinations of one multirun.

    Args:
        loader: Hydra's, of the running application.
        master: the multirun's own config; its Hydra overrides hold for every combination.
        elsewhere: the runs are for other machines, so that their device need not be here.
    """

    def __init__(
        self, loader: ConfigLoader, master: DictConfig, *, elsewhere: bool = False
    ) -> None:
        self._loader, self._master, self._elsewhere = loader, master, elsewhere
        self._parser = OverridesParser.create()
        self._words: dict[str, _Word] = {}
        self._known: Known = {}
        self._bases: dict[tuple[str, ...], _Base] = {}

    def job(self, overrides: Sequence[str]) -> Job | Invalid:
        """Return one combination, or why it is none."""
        try:
            values, choices = self._values(overrides)
            run = config.typed(values, choices, elsewhere=self._elsewhere, known=self._known)
            run = config.with_curvature(run)
            return Job(tuple(overrides), run, identify(run))
        except UserError as error:
            return Invalid(tuple(overrides), str(error), isinstance(error, MissingHereError))
        except COMPOSITION_ERRORS as error:
            return Invalid(tuple(overrides), explain(error))

    def values(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return a valid combination's plain values, as files and overrides have them.

        What its components take besides, with defaults of their own, is not there: no override can
        name it.
        """
        return self._values(overrides)[0]

    def _values(self, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
        words = {text: self._word(text) for text in overrides}
        merging = any(word.merges for word in words.values())
        plain = {} if merging else {text: word for text, word in words.items() if word.path}
        while True:
            base = self._base(tuple(text for text in overrides if text not in plain))
            refused = [text for text, word in plain.items() if not base.takes(word.path or ())]
            if not refused:
                break
            for text in refused:
                del plain[text]
        values = base.values
        for word in plain.values():
            values = replaced(values, word.path or (), word.value)
        return values, base.choices

    def _word(self, text: str) -> _Word:
        if text not in self._words:
            integer = _INTEGER.fullmatch(text)
            if integer:
                self._words[text] = _Word(tuple(integer[1].split(".")), int(integer[2]))
            else:
                self._words[text] = _read(self._parser.parse_override(text))
        return self._words[text]

    def _base(self, overrides: tuple[str, ...]) -> _Base:
        if overrides not in self._bases:
            composed = load_combination(self._loader, self._master, overrides)
            own = config.without_hydra(composed)
            choices = {
                str(key): str(value) for key, value in composed.hydra.runtime.choices.items()
            }
            raw = OmegaConf.to_container(own, resolve=False)
            spoken_of = frozenset(
                word for text in _interpolations(raw) for word in _WORD.findall(text)
            )
            values = settings.settle(config.container(own), choices, config.keys_of(overrides))
            self._bases[overrides] = _Base(values, choices, spoken_of)
        return self._bases[overrides]


def master_config(loader: ConfigLoader, arguments: Sequence[str]) -> DictConfig:
    """Compose the config of a multirun itself, as ``spectral-bench train -m`` does."""
    return load_multirun(loader, "train", spelled_out(arguments))


def combinations(master: DictConfig) -> list[list[str]]:
    """Return the overrides of every combination of a multirun, as the sweeper makes them."""
    params = master.hydra.sweeper.params or {}
    overrides = [f"{key}={value}" for key, value in params.items()]
    # Interpolations are for each combination to resolve, as where Hydra itself launches them.
    return split_combinations([*overrides, *config.texts_of(master.hydra.overrides.task)])


def _read(override: Override) -> _Word:
    parts = tuple(override.key_or_group.split("."))
    plain = (
        override.type is OverrideType.CHANGE
        and override.package is None
        and _is_settable(parts)
        and _is_scalar(override.value())
    )
    value = override.value()
    return _Word(parts if plain else None, value, merges=isinstance(value, dict))


def _is_settable(parts: Sequence[str]) -> bool:
    """Whether a key names a value of the run's config, and no group."""
    return parts[0] != "hydra" and (len(parts) > 1 or parts[0] in _TOP_LEVEL)


def _is_scalar(value: Any) -> bool:
    """Whether a value of an override means itself: a text may be an interpolation."""
    if isinstance(value, str):
        return "${" not in value and value != "???"
    return value is None or isinstance(value, bool | int | float)


def _interpolations(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if "${" in value:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _interpolations(item)
    elif isinstance(value, list):
        for item in value:
            yield from _interpolations(item)
