"""The identity of a run: a readable prefix and a hash of everything that could change its result.

The hash covers the whole resolved config, every default and the seed, and none of what only says
where or how a run is carried out. It is SHA-256 of canonical JSON: the same in every process and
on every machine.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import MissingHereError
from bench.public_names import with_canonical

if TYPE_CHECKING:
    from bench.config import RunConfig

# Raised when the meaning of a config changes without its keys changing.
_SCHEMA = 1
_DIGITS = 10

# Where results go, who watches, on which device, how often it is written down.
NOT_SCIENTIFIC = frozenset(
    {"tracker", "sweep", "runs_dir", "data_dir", "exponents", "names", "target", "tuned"}
)
NOT_SCIENTIFIC_TRAINER = frozenset(
    {"device", "devices", "threads", "progress", "log_every", "eval_batch_size", "accounting"}
    | {"checkpoint_every", "checkpoint_seconds", "compile", "cuda_graph"}
    | {"evaluate_every", "evaluate_samples"}
    | {"curvature_every", "curvature"}
)
# Options of an optimizer, and of those inside it, that say how a step is computed and not which.
NOT_SCIENTIFIC_OPTIMIZER = frozenset({"compile", "fused", "foreach", "capturable"})
# How many processes read the data, which changes no batch.
NOT_SCIENTIFIC_DATASET = frozenset({"workers"})
# Values that are paths: the file's content counts, not where it lies.
_FILE_KEYS = frozenset({"exponents"})


@dataclass(frozen=True)
class Identity:
    """``id`` names one run; ``variant`` is shared by the seeds of one configuration."""

    id: str
    variant: str


def scientific(config: RunConfig) -> dict[str, Any]:
    """Return the part of ``config`` that decides a run's result: files by content, what is built
    by its public name, wherever its code lies.

    Raises:
        MissingHereError: a file that the config names cannot be read.
    """
    whole = config.model_dump(mode="json")
    kept = {key: value for key, value in whole.items() if key not in NOT_SCIENTIFIC}
    kept["trainer"] = {
        key: value for key, value in whole["trainer"].items() if key not in NOT_SCIENTIFIC_TRAINER
    }
    kept["optimizer"] = _without(kept["optimizer"], NOT_SCIENTIFIC_OPTIMIZER)
    kept["dataset"] = {
        key: value for key, value in whole["dataset"].items() if key not in NOT_SCIENTIFIC_DATASET
    }
    return {str(key): _by_content(value, key) for key, value in with_canonical(kept).items()}


def _without(value: Any, keys: frozenset[str]) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without(item, keys) for key, item in value.items() if key not in keys}


def _by_content(value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for key, item in value.items():
        if key in _FILE_KEYS and isinstance(item, str):
            out[key] = f"sha256:{_file_digest(item, f'{where}.{key}')}"
        else:
            out[key] = _by_content(item, f"{where}.{key}")
    return out


def _file_digest(path: str, where: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise MissingHereError(f"{where}: cannot read {path!r} ({error.strerror})") from error


def digest(value: Any) -> str:
    """Return the short hash of a JSON-able value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def identify(config: RunConfig) -> Identity:
    """Return the identity of the run that ``config`` describes."""
    content = scientific(config)
    seedless = {key: value for key, value in content.items() if key != "seed"}
    names = config.names
    prefix = f"{names['dataset']}-{names['model']}-{names['optimizer']}-s{config.seed}"
    return Identity(
        id=f"{prefix}-{digest([_SCHEMA, content])}".replace("/", "_"),
        variant=digest([_SCHEMA, names["optimizer"], seedless]),
    )


def tracker_label(run_config: RunConfig) -> str:
    """Return what distinguishes one tracker's view from another's: its config without the tags."""
    return digest({key: value for key, value in run_config.tracker.items() if key != "tags"})
