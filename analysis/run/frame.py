"""What every source of runs becomes: `RunRecord`s, and from them one canonical DataFrame.

The same run reaches us as our own JSON, as W&B's log or through W&B's server, and each spells
values a little differently (2.0 as 2, NaN as text, tuples as lists, null as absent). Here the
spellings are made one, so that a frame is the same from every source.

`Filters` chooses runs, the same ones in every source; `differences` compares two sources of
the same runs, such as run folders and W&B.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import pandas as pd

from analysis.run.sources import source_digests
from bench import public_names
from bench.tuning.settings import FIRST_TUNING_SEED

FIXED = (
    "id", "variant", "sweep", "state",
    "dataset", "model", "optimizer", "schedule", "trainer", "seed", "started",
)  # fmt: skip
GROUPS = ("dataset", "model", "optimizer", "schedule", "trainer")
STATES = ("running", "done", "failed", "diverged", "unreadable")
# What decides whether times may be compared, and whether a row can be reproduced.
PROVENANCE = (
    "device", "optimizer_source", "packed", "precision", "git.commit", "git.dirty",
    "versions.torch",
)  # fmt: skip
SOURCES = "provenance.optimizer_source"
_PROVENANCE_PATHS = tuple((f"provenance.{key}", key.split(".")) for key in PROVENANCE)
_NOT_FLATTENED = frozenset({"id", "variant", "sweep", "seed", "names", "provenance"})
# Control characters, and those that end a line or turn the direction of what follows.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_NUMBERS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class RunWarning(UserWarning):
    """A run that could not be read whole; the message names its file."""


@dataclass(frozen=True)
class RunRecord:
    """One run: its id, its state (one of `STATES`), its resolved config and its summary.

    ``provenance`` is that of the latest attempt (see `bench.provenance.collect`).
    """

    id: str
    state: str
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Return the canonical frame of ``records``: one row a run, however they were found.

    Columns: those of `FIXED` (text as object, ``seed`` as Int64; ``started``: when the run's first
    attempt began, UTC, ISO 8601, None where it is not recorded), then ``config.<dotted key>``,
    ``provenance.<dotted key>`` (of `PROVENANCE`) and the summary's own names, each sorted. Numbers
    are float64 (whole ones too), flags bool, lists JSON text; a value that a run lacks, or that is
    null, is NaN or None. A run that is still running has no summary values: what it has so far is
    not its result. Rows are sorted by dataset, model, optimizer, variant, seed and id.
    """
    ordered = sorted(records, key=_order)
    rows = [_row(record) for record in ordered]
    names = {name for row in rows for name, value in row.items() if value is not None}
    config = sorted(name for name in names if name.startswith("config."))
    config += sorted(name for name in names if name.startswith("provenance."))
    summary = sorted(names.difference(config, FIXED))
    columns: dict[str, pd.Series[Any]] = {}
    for name in (*FIXED, *config, *summary):
        values = [row.get(name) for row in rows]
        columns[name] = _fixed(name, values) if name in FIXED else column(values)
    return pd.DataFrame(columns)


def column(values: Sequence[Any]) -> pd.Series[Any]:
    """Return canonical values as a column: float64, bool, or object where they are mixed."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {float}:
        return pd.Series([float("nan") if v is None else v for v in values], dtype="float64")
    if kinds == {bool} and None not in values:
        return pd.Series(values, dtype="bool")
    return pd.Series(values, dtype="object")


def canonical(value: Any) -> float | bool | str | None:
    """Return a JSON value in its one spelling: number as float, list or object as JSON text."""
    kind = type(value)  # exact types first: this runs for every value of every run
    if kind is float or kind is bool or value is None:
        plain: float | bool | None = value
        return plain
    if kind is str:
        return _NUMBERS.get(value) or _one_line(str(value))
    if isinstance(value, int | float):
        return float(value)
    return json.dumps(_whole(value), sort_keys=True, ensure_ascii=False)


def warn(message: str) -> None:
    """Give a `RunWarning`."""
    warnings.warn(RunWarning(message), stacklevel=3)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return "; the nearest is '...'" for a misspelt name, nothing where none is near."""
    close = get_close_matches(name, list(names), n=1)
    return f"; the nearest is {close[0]!r}" if close else ""


def _whole_seed(config: Mapping[str, Any]) -> int | None:
    """Return the config's seed as an integer, None where there is none."""
    seed = config.get("seed")
    if isinstance(seed, int | float) and not isinstance(seed, bool) and seed == int(seed):
        return int(seed)
    return None


def _order(record: RunRecord) -> tuple[Any, ...]:
    names, seed = _names(record.config), _whole_seed(record.config)
    keys = (names.get("dataset"), names.get("model"), names.get("optimizer"))
    variant = record.config.get("variant")
    return (*map(str, keys), str(variant), -1 if seed is None else seed, record.id)


def _row(record: RunRecord) -> dict[str, Any]:
    """Return the run's cells by column name."""
    row: dict[str, Any] = {}
    if record.state != "running":
        row = {str(k): canonical(v) for k, v in record.summary.items() if not k.startswith("_")}
    for name, value in record.config.items():
        if name not in _NOT_FLATTENED and not name.startswith("_"):
            _flatten(f"config.{name}", value, row)
    for column_name, path in _PROVENANCE_PATHS:
        row[column_name] = canonical(_at(record.provenance, path))
    row[SOURCES] = source_digests(row[SOURCES], record.config.get("optimizer"))
    names = _names(record.config)
    return row | {
        "id": record.id,
        "state": record.state,
        "variant": record.config.get("variant"),
        "sweep": record.config.get("sweep"),
        "seed": _whole_seed(record.config),
        "started": record.provenance.get("began") or record.provenance.get("started"),
        **{group: names.get(group) for group in GROUPS},
    }


def _names(config: Mapping[str, Any]) -> Mapping[str, Any]:
    names = config.get("names")
    return names if isinstance(names, Mapping) else {}


def _at(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        if not tree or not isinstance(tree, Mapping):
            return None
        tree = tree.get(key)
    return tree


def config_columns(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's values as the frame's columns ``config.<dotted key>`` have them."""
    row: dict[str, Any] = {}
    _flatten("config", config, row)
    return row


def _flatten(name: str, value: Any, row: dict[str, Any]) -> None:
    if type(value) is dict or isinstance(value, Mapping):
        for key, inner in value.items():
            _flatten(f"{name}.{key}", inner, row)
    else:
        row[name] = canonical(_by_public_names(name, value))


def _by_public_names(name: str, value: Any) -> Any:
    """Return a value of a config, components by the names that `bench.public_names` keeps."""
    if name.endswith("._target_"):
        return public_names.canonical(str(value))
    return public_names.with_canonical(value) if isinstance(value, list) else value


def _fixed(name: str, values: list[Any]) -> pd.Series[Any]:
    if name == "seed":
        return pd.Series(values, dtype="Int64")
    texts = [None if value is None else _one_line(str(value)) for value in values]
    return pd.Series(texts, dtype="object")


def _one_line(text: str) -> str:
    """Return ``text`` without what would end a line, or steer a terminal or a page, where shown."""
    return text if text.isprintable() else _STEERING.sub(" ", text)


def _whole(value: Any) -> Any:
    """Return nested lists and objects with whole floats as integers: [1.0, 2] is [1, 2]."""
    if isinstance(value, Mapping):
        return {str(key): _whole(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


# These outrank a run's other attempts (see `analysis.run.wandb_server.server_records`), so a server
# must list them whatever state is asked for.
_FINAL = ("done", "diverged")


@dataclass(frozen=True)
class Filters:
    """Which runs: of a sweep (W&B's group), with any of some tags, in any of some states.

    Empty means all.

    Raises:
        ValueError: a state that no run has.
    """

    sweep: str | None = None
    tags: tuple[str, ...] = ()
    states: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for state in self.states:
            if state not in STATES:
                known = nearest(state, STATES) or f"; known: {', '.join(STATES)}"
                raise ValueError(f"unknown state {state!r}{known}")

    def query(self) -> dict[str, Any]:
        """Return the filters as a server takes them; they may let more through than `fits`.

        A run's state is what it wrote into its summary. One that is running wrote none yet, which
        no filter can ask for: then the server lists runs of every state.
        """
        asked: dict[str, Any] = {}
        if self.sweep is not None:
            asked["group"] = self.sweep
        if self.tags:
            asked["tags"] = {"$in": list(self.tags)}
        if self.states and "running" not in self.states:
            asked["summary_metrics.state"] = {"$in": sorted({*self.states, *_FINAL})}
        return asked

    def fits(self, run: RunRecord) -> bool:
        """Return whether a run is meant."""
        tracker = run.config.get("tracker")
        own = tracker.get("tags") if isinstance(tracker, Mapping) else None
        return (
            (not self.tags or bool(set(self.tags) & set(own or ())))
            and (self.sweep is None or run.config.get("sweep") == self.sweep)
            and (not self.states or run.state in self.states)
        )


def differences(
    first: pd.DataFrame, second: pd.DataFrame, *, names: tuple[str, str], metric: str
) -> list[str]:
    """Return one line for each run that only one source has, or on which they differ.

    Args:
        first: a frame of runs.
        second: another.
        names: what to call the two.
        metric: a summary column to compare, beside the state.
    """
    lines = []
    for ours, theirs, name in ((first, second, names[0]), (second, first, names[1])):
        known = set(theirs["id"])
        lines += [
            f"only in {name}: {run_id} ({state})"
            for run_id, state in zip(ours["id"], ours["state"], strict=True)
            if run_id not in known
        ]
    both = _compared(first, metric).merge(_compared(second, metric), on="id", how="inner")
    for run_id, *values in both.itertuples(index=False):
        for what, one, other in (("state", values[0], values[2]), (metric, values[1], values[3])):
            if one != other and not (pd.isna(one) and pd.isna(other)):
                lines.append(f"{run_id}: {what} {one} in {names[0]}, {other} in {names[1]}")
    return lines


def _compared(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    value = runs[metric] if metric in runs else pd.Series(float("nan"), index=runs.index)
    return pd.DataFrame({"id": runs["id"], "state": runs["state"], "value": value})


def prepared(runs: pd.DataFrame) -> pd.Series[bool]:
    """Return which of ``runs`` tuned, or prepared others (measured their exponents)."""
    return (runs["seed"] >= FIRST_TUNING_SEED).fillna(False).astype(bool)
