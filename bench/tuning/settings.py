"""Tuned settings: what ``spectral-bench tune`` found, and what ``tuned=true`` reads.

<folder>/<model>_<dataset>/<optimizer>.yaml; the folder is conf/tuned, or that of tuned=<folder>.
    settings     dotted config key -> value
    provenance   trials spent, space, score, runs, code and device
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench import files
from bench.errors import MissingHereError, UserError
from bench.files import write_atomically


def replaced(values: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a copy of ``values`` with the value at ``path`` replaced; what is beside it is shared.

    Raises:
        KeyError: there is no value at ``path``.
    """
    key, *rest = path
    if key not in values or (rest and not isinstance(values[key], Mapping)):
        raise KeyError(key)
    return {**values, key: replaced(values[key], rest, value) if rest else value}


# Seeds from here on are for tuning; those of a report are below.
FIRST_TUNING_SEED = 1000
_HEADER = "# Written by spectral-bench tune, read by tuned=true; to change it, tune again.\n"


def folder(tuned: bool | str) -> Path:
    """Return the folder that the config's ``tuned`` means."""
    return Path(tuned) if isinstance(tuned, str) else files.conf_dir() / "tuned"


def file_of(root: Path, names: Mapping[str, str]) -> Path:
    """Return where the settings of one optimizer on one model and dataset are kept."""
    return root / f"{names['model']}_{names['dataset']}" / f"{names['optimizer']}.yaml"


def settle(
    values: Mapping[str, Any], choices: Mapping[str, str], given: Collection[str] = ()
) -> dict[str, Any]:
    """Return a config's plain values with the tuned settings put in, where ``tuned`` asks for them.

    Args:
        values: the composed config, resolved.
        choices: the chosen file of each group.
        given: dotted keys that the user gave a value; what is given is not replaced.

    Raises:
        UserError: there are no such settings, or they do not fit the config.
    """
    out, tuned = dict(values), values.get("tuned", False)
    if not tuned or not isinstance(tuned, bool | str):  # a wrong type is for the schema to refuse
        return out
    path = file_of(folder(tuned), choices)
    for key, value in read(path, choices)["settings"].items():
        if key not in given:
            try:
                out = replaced(out, key.split("."), value)
            except KeyError as error:
                raise UserError(f"{path}: {key} is not in this config; tune again") from error
    return out


def check_seed(seed: int) -> None:
    """Refuse a report's run on a seed that tuning may have used.

    Raises:
        UserError: it is one.
    """
    if seed >= FIRST_TUNING_SEED:
        raise UserError(
            f"seed: {seed} is for tuning; with tuned settings give one below {FIRST_TUNING_SEED}"
        )


def read(path: Path, choices: Mapping[str, str]) -> dict[str, Any]:
    """Return what a file of tuned settings holds.

    Raises:
        UserError: it is missing, or is no such file.
    """
    what = f"optimizer={choices['optimizer']} on {choices['model']} and {choices['dataset']}"
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise MissingHereError(
            f"tuned: no settings of {what} ({_shown(path)}); make them with "
            "`spectral-bench tune +sweeps=<study>`, or leave tuned=true out"
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not readable as YAML; tune again") from error
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise UserError(f"{path}: no tuned settings in it; tune again")
    for key, value in content["settings"].items():
        numbers = value if isinstance(value, list) else [value]
        named = not any(part.startswith("_") for part in str(key).split("."))
        if not named or not all(isinstance(one, int | float) for one in numbers):
            raise UserError(f"{path}: {key}={value!r} is no number, as tuned settings are")
    return content


def write(path: Path, settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Write a file of tuned settings; the same content gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"settings": dict(settings), "provenance": dict(provenance)}
    text = yaml.safe_dump(content, sort_keys=False, width=100)
    write_atomically(path, lambda file: file.write((_HEADER + text).encode()))


def _shown(path: Path) -> Path:
    return path.relative_to(files.home()) if path.is_relative_to(files.home()) else path
