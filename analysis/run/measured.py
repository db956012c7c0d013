"""Everything that was measured, of many runs, as a few tables.

Reads the Parquet files that docs/curvature.md lists, of run folders or by themselves; needs no GPU
and rebuilds no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.measure.exponents import exponents_table
from analysis.measure.files import read_table
from analysis.run import folders
from analysis.run.archive import local
from analysis.run.frame import RunRecord, frame, warn
from bench.run_folder import is_run

ATTENTION_AND_MLP = ("query", "key", "value", "output", "mlp_up", "mlp_down")
_KEY_VALUE, _REST = ["key", "value"], ["query", "mlp_up", "mlp_down"]


def with_order(blocks: pd.DataFrame) -> pd.DataFrame:
    """Add two columns to blocks of Hessians, by the root mean square of a block's entries.

    ``place``: of a role's block on the diagonal among those of `ATTENTION_AND_MLP` of the same run
    and step, 1 the largest; NaN for all other blocks. ``key_value_excess``, in the row of the
    value's block: the smaller of the key's and the value's blocks by the largest of the query's and
    the MLP's.
    """
    if blocks.empty:
        return blocks
    own = blocks[
        (blocks["level"] == "role")
        & (blocks["row"] == blocks["col"])
        & blocks["row"].isin(ATTENTION_AND_MLP)
    ]
    size = own["frobenius_per_entry"]
    place = size.groupby([own["run"], own["step"]]).rank(ascending=False)
    ordered = blocks.assign(place=place.reindex(blocks.index), key_value_excess=np.nan)
    for _, group in own.groupby(["run", "step"]):
        by_role = group.set_index("row")["frobenius_per_entry"]
        if set(ATTENTION_AND_MLP) <= set(by_role.index) and by_role[_REST].max() > 0:
            at = group.index[group["row"] == "value"]
            excess = by_role[_KEY_VALUE].min() / by_role[_REST].max()
            ordered.loc[at, "key_value_excess"] = excess
    return ordered


_NEEDED = {
    "exponents": ("layer", "layer_type", "alpha", "gamma", "s", "reliable", "step", "epoch"),
    "curvature": ("layer", "layer_type", "rows", "cols", "k", "sigma", "h", "step", "epoch"),
    "hessian_blocks": ("level", "row", "col", "method", "frobenius_per_entry", "step", "epoch"),
    "landscape": ("place", "distance", "k", "change", "null_low", "null_high", "step", "epoch"),
    "landscape_fits": ("place", "distance", "exponent", "constant", "loss", "step", "epoch"),
}
_OF_RUN = ("dataset", "model", "optimizer", "seed")


@dataclass(frozen=True)
class Measured:
    """What was found.

    ``layers``: one row a run, layer and epoch: ``run``, dataset, model, optimizer, seed, what the
    exponents file holds, and ``depth``, the layer's place in its network from 0 (first) to 1.
    Where kronecker_layers.parquet is there, ``layers`` has its columns too, of class-wise
    errors. ``directions``: one row a direction, with the same first columns. ``runs``: the
    finished runs, as `analysis.runs.load_runs` gives them. ``blocks``: one row a block of the
    Hessian, with the columns of `analysis.run.measured`. ``points``: one row a point of weights
    in the landscape; ``windows``: one row a window of k there. Each may be empty.
    """

    layers: pd.DataFrame
    directions: pd.DataFrame
    runs: pd.DataFrame
    blocks: pd.DataFrame = field(default_factory=pd.DataFrame)
    points: pd.DataFrame = field(default_factory=pd.DataFrame)
    windows: pd.DataFrame = field(default_factory=pd.DataFrame)


def load(sources: Sequence[str]) -> Measured:
    """Return all that is in ``sources``: folders of runs, run folders, archives, single tables.

    Where a run has directions without exponents, these are fitted anew. Runs that are not done are
    left out with a `RunWarning`; so is a second copy of a run.

    Raises:
        ValueError: a source that is not there, a file that is none of these, or nothing found.
    """
    opened = [Path(local(source)).expanduser() for source in sources]
    files = [file for source in opened for file in _files(source)]
    records: dict[str, RunRecord] = {}
    tables: dict[str, dict[str, pd.DataFrame]] = {kind: {} for kind in _NEEDED}
    for folder, paths in files:
        record = _record(folder)
        if record.state != "done":
            warn(f"{folder}: the run is {record.state}; left out")
            continue
        records.setdefault(record.id, record)
        for path in paths:
            kind, table = _read(path)
            if record.id in tables[kind]:
                warn(f"{path}: a second file of run {record.id}; left out")
                continue
            tables[kind][record.id] = (
                _with_kronecker(table, folder) if kind == "exponents" else table
            )
    if not records:
        raise ValueError("nothing is measured there; spectral-bench curvature run=... measures")
    runs = frame(records.values())
    for run, table in tables["curvature"].items():
        if run not in tables["exponents"]:
            steps = [exponents_table(group) for _, group in table.groupby("step")]
            tables["exponents"][run] = pd.concat(steps, ignore_index=True)
    layers = _joined(tables["exponents"], runs)
    if len(layers):
        layers["depth"] = layers.groupby(["run", "step"], sort=False)["layer"].transform(
            lambda names: [i / max(len(names) - 1, 1) for i in range(len(names))]
        )
    others = (_joined(tables[kind], runs) for kind in ("landscape_fits", "landscape"))
    blocks = with_order(_joined(tables["hessian_blocks"], runs))
    return Measured(layers, _joined(tables["curvature"], runs), runs, blocks, *others)


def last_epochs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each run's last measured step."""
    return table[table["step"] == table.groupby("run")["step"].transform("max")]


def _files(source: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield (run folder, its tables) for every run in ``source``."""
    if source.is_file():
        yield source.parent, [source]
        return
    if not source.is_dir():
        raise ValueError(f"{source}: no such file or folder")
    inside = sorted(p for p in source.iterdir() if p.is_dir() and p.name[0] not in "._")
    for folder in [source, *inside]:
        paths = [p for name in _NEEDED if (p := folder / f"{name}.parquet").is_file()]
        if paths or is_run(folder):
            yield folder, paths


def _record(folder: Path) -> RunRecord:
    """Return the run of ``folder``; tables that lie by themselves are a run without a config."""
    if is_run(folder):
        return folders.records(folder)[0]
    return RunRecord(folder.resolve().name, "done")


def _read(path: Path) -> tuple[str, pd.DataFrame]:
    """Return which of the tables ``path`` holds, and the table."""
    content = read_table(path)
    columns = set() if content is None else set(content[0].columns)
    for kind, needed in _NEEDED.items():
        if content is not None and columns.issuperset(needed):
            return kind, content[0]
    raise ValueError(f"{path}: none of {', '.join(_NEEDED)}; measure the run again")


def _with_kronecker(exponents: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Add the Kronecker columns of the Gauss-Newton block's errors ("class"), where measured."""
    content = read_table(folder / "kronecker_layers.parquet")
    if content is None:
        return exponents
    of_class = content[0][content[0]["errors"] == "class"]
    new = [name for name in of_class.columns if name not in exponents.columns]
    keys = ["layer", "step"]
    return exponents.merge(of_class[keys + new].drop(columns="errors"), on=keys, how="left")


def _joined(tables: dict[str, pd.DataFrame], runs: pd.DataFrame) -> pd.DataFrame:
    """Return the tables of all runs as one, each row with what names its run."""
    known = runs.set_index("id")
    whole = []
    for run in sorted(tables):
        row = known.loc[run]
        names = {"run": run, **{name: row[name] for name in _OF_RUN}}
        config = {name: row[name] for name in runs.columns if name.startswith("config.model.")}
        fixed = pd.DataFrame({**names, **config}, index=tables[run].index)
        whole.append(pd.concat([fixed, tables[run]], axis=1))
    return pd.concat(whole, ignore_index=True) if whole else pd.DataFrame()
