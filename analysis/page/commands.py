"""The command that trains a row again: the chosen files, and what differs from their defaults."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.errors import HydraException

from bench.config import load
from bench.errors import UserError

_CHOSEN = ("model", "dataset", "optimizer", "schedule", "trainer")
# Where results lie and who watches: the reader's own choice.
_OWN = ("tracker", "runs_dir", "data_dir", "names", "seed", "sweep", "id", "variant")
_CHOICE = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")


def command(configs: Sequence[Mapping[str, Any]]) -> str:
    """Return the command of a row: ``configs`` are those of its runs, which differ in the seed."""
    first = configs[0]
    seeds = sorted({int(config["seed"]) for config in configs})
    chosen = [f"{group}={first['names'][group]}" for group in _CHOSEN]
    words = [*chosen, *_overrides(first, chosen), f"seed={','.join(map(str, seeds))}"]
    flag = ["-m"] if len(seeds) > 1 else []
    return shlex.join(["python", "-m", "bench.train", *flag, *words])


def _overrides(config: Mapping[str, Any], chosen: Sequence[str]) -> list[str]:
    """Return overrides from the chosen files' defaults to ``config``, sorted.

    A choice that this version has no file for is given without them; so is one that is no plain
    name: a run may be anybody's, and a path would make Hydra read a config from elsewhere.
    """
    if not all(_CHOICE.fullmatch(word.partition("=")[2]) for word in chosen):
        return []
    try:
        default = load(list(chosen)).model_dump(mode="json")
    except (UserError, HydraException):
        return []
    ours, theirs = _flat(config), _flat(default)
    words = [
        f"{'' if key in theirs else '+'}{key}={_value(value)}"
        for key, value in sorted(ours.items())
        if key not in theirs or theirs[key] != value
    ]
    return [*words, *(f"~{key}" for key in sorted(theirs.keys() - ours.keys()))]


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{above}{key}"
        if name in _OWN:
            continue
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _value(value: Any) -> str:
    """Return a value as Hydra's override grammar reads it."""
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, separators=(",", ":"))
