"""The command that trains a row's runs again: the chosen files, and what differs from them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException

from bench.compose import composing
from bench.config import container, typed, without_hydra
from bench.errors import UserError
from bench.run_folder import CONFIG

_CHOSEN = ("model", "dataset", "optimizer", "schedule", "trainer")
# Where results lie and who watches: the reader's own choice.
_OWN = ("tracker", "runs_dir", "data_dir", "names", "seed", "sweep", "id", "variant")
_CHOICE = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")


def command_of(source: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the command of ``runs``, rows of the frame of ``source``; "" where no config is known.

    Args:
        source: where configs lie, if it is a folder; else the frame's columns have to do.
        runs: of one variant.
    """
    configs = [config for run in runs if (config := _config(source, run))]
    return command(configs) if configs else ""


def command(configs: Sequence[Mapping[str, Any]]) -> str:
    """Return the command of a row: ``configs`` are those of its runs, which differ in the seed."""
    first = configs[0]
    seeds = sorted({int(config["seed"]) for config in configs})
    chosen = [f"{group}={first['names'][group]}" for group in _CHOSEN]
    words = [*chosen, *_overrides(first, chosen), f"seed={','.join(map(str, seeds))}"]
    flag = ["-m"] if len(seeds) > 1 else []
    return shlex.join(["spectral-bench", "train", *flag, *words])


def _overrides(config: Mapping[str, Any], chosen: Sequence[str]) -> list[str]:
    """Return overrides from the chosen files' defaults to ``config``, sorted.

    A key that ``config`` lacks is newer than the run: its default is what older runs did.
    A choice that this version has no file for is given without them; so is one that is no plain
    name: a run may be anybody's, and a path would make Hydra read a config from elsewhere.
    """
    if not all(_CHOICE.fullmatch(word.partition("=")[2]) for word in chosen):
        return []
    try:
        default = _defaults(tuple(chosen))
    except (UserError, HydraException):
        return []
    ours, theirs = _flat(config), _flat(default)
    return [
        f"{'' if key in theirs else '+'}{key}={_value(entry)}"
        for key, entry in sorted(ours.items())
        if key not in theirs or theirs[key] != entry
    ]


@cache
def _defaults(chosen: tuple[str, ...]) -> dict[str, Any]:
    """Return the config of the chosen files alone.

    No component is built on trial: it may need a device, or measured exponents, that are not here.
    """
    with composing():
        composed = compose("train", overrides=list(chosen), return_hydra_config=True)
    values, choices = container(without_hydra(composed)), composed.hydra.runtime.choices
    return typed(values, choices, elsewhere=True).model_dump(mode="json")


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in tree.items():
        name = f"{above}{key}"
        if name in _OWN:
            continue
        if isinstance(entry, Mapping) and entry:
            flat |= _flat(entry, f"{name}.")
        else:
            flat[name] = entry
    return flat


def _value(value: Any) -> str:
    """Return a value as Hydra's override grammar reads it."""
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, separators=(",", ":"))


def _config(source: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config: its file, or what the frame's columns tell of it."""
    path = Path(source) / str(run["id"]) / CONFIG
    try:
        loaded = json.loads(path.read_bytes())
    except (OSError, ValueError):
        loaded = _unflattened(run)
    return loaded if isinstance(loaded, dict) and "names" in loaded else {}


def _unflattened(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config as far as a row of the frame tells it; nulls are not told."""
    config: dict[str, Any] = {"seed": run["seed"], "names": {}}
    for name, told in run.items():
        if name in _CHOSEN:
            config["names"][name] = told
        elif name.startswith("config.") and told is not None:
            branch = config
            *above, last = name.split(".")[1:]
            for key in above:
                branch = branch.setdefault(key, {})
            whole = isinstance(told, float) and told.is_integer()
            text = isinstance(told, str) and told[:1] in "[{"
            branch[last] = int(told) if whole else json.loads(told) if text else told
    return config if all(config["names"].values()) else {}
