"""What the report shows, gathered from the runs: rows, curves, exponents, failures, provenance.

Each row has the command that trains it again: the chosen files, and what differs from their
defaults.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.errors import HydraException
from matplotlib.figure import Figure

from analysis.figure.lines import chart
from analysis.figure.seeds import over_seeds, unit_of
from analysis.measure.files import read_table
from analysis.table.model import Cell, Table
from analysis.table.render import comparison_text, value
from bench.config import load
from bench.errors import UserError
from bench.run_folder import CONFIG, EXPONENTS, STATUS

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
        f"{'' if key in theirs else '+'}{key}={_value(entry)}"
        for key, entry in sorted(ours.items())
        if key not in theirs or theirs[key] != entry
    ]
    return [*words, *(f"~{key}" for key in sorted(theirs.keys() - ours.keys()))]


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


@dataclass(frozen=True)
class Row:
    """One row of the leaderboard: an optimizer variant on one dataset and model.

    ``bar``: where its mean, and its interval if it has one, lie among those of its column, 0 to 1.
    """

    label: str
    optimizer: str
    dataset: str
    model: str
    place: int
    cell: Cell
    value: str
    bar: tuple[float, ...]
    comparison: str
    verdict: str
    command: str


def rows(table: Table, runs: pd.DataFrame, source: str, *, falling: bool = False) -> list[Row]:
    """Return the leaderboard, best first within each dataset and model; rows without runs left out.

    Args:
        table: of rows optimizer and columns dataset and model, with intervals.
        runs: the frame that the table was built from.
        source: what was loaded, where configs lie if it is a folder.
        falling: whether a smaller number is better.
    """
    by_id: dict[str, dict[str, Any]] = {
        str(run["id"]): {str(name): told for name, told in run.items()}
        for run in runs.to_dict("records")
    }
    found = []
    for j, column in enumerate(table.columns):
        dataset, _, model = column.partition("/")
        cells = [row[j] for row in table.cells]
        span = _span(cells)
        for i, cell in enumerate(cells):
            if not cell.n and not cell.diverged:
                continue
            used = [by_id[run_id] for run_id in cell.run_ids]
            verdict = cell.comparison.verdict if cell.comparison else ""
            found.append(
                Row(
                    label=table.rows[i],
                    optimizer=table.rows[i].split(" ")[0],
                    dataset=dataset,
                    model=model,
                    place=i,
                    cell=cell,
                    value=value(cell, table),
                    bar=_bar(cell, span),
                    comparison=comparison_text(cell.comparison, table.metric),
                    verdict=verdict if cell.comparison and cell.comparison.n > 1 else "",
                    command=_command(source, used),
                )
            )
    sign = 1 if falling else -1
    return sorted(
        found,
        key=lambda row: (
            row.dataset,
            row.model,
            math.inf if math.isnan(row.cell.mean) else sign * row.cell.mean,
        ),
    )


def chart_of(
    of: Sequence[Row], source: str, metric: str, detail: str, *, falling: bool = False
) -> Figure | None:
    """Return the curves of the rows of one dataset and model; None where none has a history."""
    series = [
        over_seeds(row.label, row.place, source=source, run_ids=row.cell.run_ids, metric=metric)
        for row in of
    ]
    return chart(
        [one for one in series if one is not None],
        title=f"{of[0].model} on {of[0].dataset}", detail=f"{metric} against epochs; {detail}",
        x_label="epochs", y_label=unit_of(metric), falling=falling,
    )  # fmt: skip


def exponents(of: Iterable[Row], source: str) -> list[dict[str, Any]]:
    """Return one entry a layer and row with measured exponents, beside the row's result.

    Of each run its last measurement counts: a run may have measured itself from its first weights
    on.
    """
    found = []
    for row in of:
        tables = [read_table(Path(source) / run_id / EXPONENTS)
                  for run_id in row.cell.run_ids]  # fmt: skip
        measured = [_latest(table[0]) for table in tables if table is not None]
        if not measured:
            continue
        whole = pd.concat(measured)
        for layer, group in whole.groupby("layer", sort=False):
            entry: dict[str, Any] = {
                "label": row.label, "dataset": row.dataset, "model": row.model,
                "value": row.value, "layer": layer, "runs": len(group),
                "reliable": bool(group["reliable"].all()),
            }  # fmt: skip
            for name in ("alpha", "gamma", "s"):
                entry[name] = float(group[name].mean())
            found.append(entry)
    return found


def _latest(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["step"] == table["step"].max()] if "step" in table else table


def failures(runs: pd.DataFrame, source: str) -> list[dict[str, str]]:
    """Return the runs that are not done: their id, state and, where it is known, the cause."""
    rest = runs[runs["state"] != "done"]
    return [
        {"id": str(run_id), "state": str(state), "cause": _cause(source, str(run_id))}
        for run_id, state in zip(rest["id"], rest["state"], strict=True)
    ]


def provenance(runs: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Return (what, value, number of runs) for the code, versions and devices behind the page."""
    found = []
    for name in sorted(str(column) for column in runs.columns if column.startswith("provenance.")):
        counts = Counter("not recorded" if pd.isna(v) else str(v) for v in runs[name])
        what = name.removeprefix("provenance.")
        found += [(what, text, count) for text, count in sorted(counts.items())]
    return found


def _span(cells: Sequence[Cell]) -> tuple[float, float]:
    ends = [v for cell in cells for v in (cell.mean, *cell.interval) if math.isfinite(v)]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _bar(cell: Cell, span: tuple[float, float]) -> tuple[float, ...]:
    width = (span[1] - span[0]) or 1.0
    ends = [v for v in (cell.mean, *cell.interval) if math.isfinite(v)]
    return tuple((end - span[0]) / width for end in ends)


def _command(source: str, used: Sequence[dict[str, Any]]) -> str:
    configs = [_config(source, run) for run in used]
    whole = [config for config in configs if config]
    return command(whole) if whole else ""


def _config(source: str, run: dict[str, Any]) -> dict[str, Any]:
    """Return a run's config: its file, or what the frame's columns tell of it."""
    path = Path(source) / str(run["id"]) / CONFIG
    try:
        loaded = json.loads(path.read_bytes())
    except (OSError, ValueError):
        loaded = _unflattened(run)
    return loaded if isinstance(loaded, dict) and "names" in loaded else {}


def _unflattened(run: dict[str, Any]) -> dict[str, Any]:
    """Return the config as far as a row of the frame tells it; nulls are not told."""
    config: dict[str, Any] = {"seed": run["seed"], "names": {}}
    for name, told in run.items():
        if name in ("model", "dataset", "optimizer", "schedule", "trainer"):
            config["names"][name] = told
        elif name.startswith("config.") and not (isinstance(told, float) and math.isnan(told)):
            branch = config
            *above, last = name.split(".")[1:]
            for key in above:
                branch = branch.setdefault(key, {})
            whole = isinstance(told, float) and told.is_integer()
            text = isinstance(told, str) and told[:1] in "[{"
            branch[last] = int(told) if whole else json.loads(told) if text else told
    return config if all(config["names"].values()) else {}


def _cause(source: str, run_id: str) -> str:
    try:
        status = json.loads((Path(source) / run_id / STATUS).read_bytes())
    except (OSError, ValueError):
        return ""
    return str(status.get("cause") or "") if isinstance(status, dict) else ""
