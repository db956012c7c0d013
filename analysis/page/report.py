"""The report: one page, whole without its script, that opens without a network.

`page` returns it for a table and its runs. The template has the text, report.css.j2 the looks,
report.js what moves; a Content-Security-Policy lets nothing else run or load.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from analysis.figure.lines import Array, Series, chart
from analysis.figure.seeds import circumstances, over_seeds, unit_of
from analysis.figure.style import COLOURS, DARK, svg, swatch
from analysis.judge.verdicts import Comparison
from analysis.measure.files import read_table
from analysis.page.text import render
from analysis.page.train_command import command_of
from analysis.run.archive import local
from analysis.table.build import direction
from analysis.table.model import Cell, Run, Table, in_percent
from analysis.table.render import (
    NOTHING,
    badge_text,
    common_badge,
    difference,
    number_text,
    signed_text,
    value,
)
from analysis.table.select import records
from analysis.table.timing import SECONDS, is_packed
from bench.run_folder import EXPONENTS, STATUS

_DIGITS = 6  # of the numbers that curves show
# A project of a W&B server: <address>/<entity>/<project>.
_PROJECT = re.compile(r"https?://[^\s/]+(/[\w.-]+){2,}")
_SERVER = "https://api.wandb.ai"


@dataclass(frozen=True)
class Against:
    """A comparison as the page prints it; ``number`` to sort by."""

    number: float = math.nan
    difference: str = NOTHING
    verdict: str = ""
    badge: str = ""
    p: str = ""

    @classmethod
    def of(cls, one: Comparison | None, table: Table) -> Against:
        """Return a comparison's text; that of the baseline with itself has none.

        A badge that all of the table have is said once, above them.
        """
        metric, common = table.metric, common_badge(table)
        if one is None or not one.n:
            return cls()
        shown = difference(one, metric)
        if one.n == 1:
            return cls(one.difference, shown)
        badge = badge_text(one) if one.badge and not common else ""
        p = f"{one.n} pairs of seeds, p = {one.decisive_p:.2g} corrected"
        return cls(one.difference, shown, one.verdict, badge, p)


@dataclass(frozen=True)
class Row:
    """One row of the table: an optimizer variant on one dataset and model.

    ``key`` names it on the page, ``place`` chooses its colour. ``centre`` is its mean, or what
    else the table shows. ``bar``: where that, and its interval if it has one, lie among those of
    its column, 0 to 1. ``against`` is what it is to each baseline, ``runs`` are its runs as text.
    """

    key: str
    label: str
    dataset: str
    model: str
    place: int
    cell: Cell
    centre: float
    value: str
    bar: tuple[float, ...]
    against: list[Against]
    runs: list[dict[str, Any]]
    command: str


def page(
    table: Table,
    runs: pd.DataFrame,
    source: str,
    *,
    title: str = "Optimizers compared",
    falling: bool | None = None,
    tuning: str = "",
) -> str:
    """Return the page of ``table`` as HTML; the same arguments give the same bytes.

    Args:
        table: of rows optimizer and columns dataset and model, best with intervals.
        runs: the frame that it was built from (`analysis.runs.load_runs`), without other sweeps.
        source: where it was loaded from, which has the histories and configs.
        title: of the page.
        falling: whether a smaller number is better; None: as the metric's name tells.
        tuning: the section on how settings were chosen (`analysis.page.selection.html`).

    Raises:
        ValueError: a source that cannot be read any more.
    """
    falling = direction(table.metric) < 0 if falling is None else falling
    found = rows(table, runs, source, falling=falling)
    charts = _charts(found, runs, source, table.metric, falling)
    css = render("report.css.j2", colours=list(zip(COLOURS, map(DARK.__getitem__, COLOURS),
                                                   strict=True)))  # fmt: skip
    script = render("report.js")
    drawn = [*(one["svg"] for one in charts), tuning]
    styles = [css, *(sheet for part in drawn for sheet in _sheets(part))]
    return render(
        "report.html.j2",
        title=title, badge=common_badge(table),
        metric=table.metric, unit=" (%)" if in_percent(table.metric) else "",
        table=table, rows=found, contrasts=contrasts(table), runs=len(runs),
        charts=charts,
        exponents=exponents(found, local(source)), failures=failures(runs, local(source)),
        provenance=provenance(runs), tuning=tuning, swatch=swatch, css=css, script=script,
        policy=f"default-src 'none'; script-src {_hashes([script])}; style-src {_hashes(styles)};"
        " base-uri 'none'; form-action 'none'",
        varied=[name for name in ("dataset", "model")
                if len({getattr(row, name) for row in found}) > 1],
    )  # fmt: skip


def _hashes(texts: Iterable[str]) -> str:
    """Return the inline scripts or styles that are allowed, as a policy names them."""
    digests = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts}
    return " ".join(f"'sha256-{digest}'" for digest in sorted(digests))


def _sheets(drawn: str) -> list[str]:
    """Return the style sheets of SVGs of `analysis.figure.style.svg`, whose first child it is."""
    return re.findall(r"<svg[^>]*>\n<style>(.*)</style>", drawn)


def rows(table: Table, runs: pd.DataFrame, source: str, *, falling: bool = False) -> list[Row]:
    """Return the table's rows, best first within each dataset and model; empty ones left out.

    Args:
        table: as `page` has it.
        runs: likewise.
        source: likewise.
        falling: whether a smaller number is better.
    """
    by_id = {str(run["id"]): run for run in records(runs, table.metric)}
    bases = [table.cells[table.rows.index(name)] for name in table.baselines]
    found = []
    for j, column in enumerate(table.columns):
        dataset, _, model = column.partition("/")
        cells = [row[j] for row in table.cells]
        centres = [cell.mean if table.statistic == "mean" else cell.iqm for cell in cells]
        span = _span(centres, cells)
        beside = [_by_seed(base[j], by_id) for base in bases]
        for i, cell in enumerate(cells):
            if not cell.n and not cell.diverged:
                continue
            others = [{} if base[j] is cell else seeds
                      for base, seeds in zip(bases, beside, strict=True)]  # fmt: skip
            own = sorted(cell.members, key=lambda member: by_id[member[0]]["seed"])
            found.append(
                Row(
                    key=f"{j}-{i}", label=table.rows[i], dataset=dataset, model=model, place=i,
                    cell=cell, centre=centres[i], value=value(cell, table),
                    bar=_bar(centres[i], cell, span),
                    against=[Against.of(one, table) for one in cell.comparisons],
                    runs=[_told(by_id[one], None if math.isnan(cell.mean) else number, others,
                                table.metric, source) for one, number in own],
                    command=command_of(local(source), [by_id[one] for one, _ in own]),
                )
            )  # fmt: skip
    sign = 1 if falling else -1
    return sorted(
        found,
        key=lambda row: (
            row.dataset, row.model, math.inf if math.isnan(row.centre) else sign * row.centre,
        ),
    )  # fmt: skip


def contrasts(table: Table) -> list[tuple[str, str, str, Against]]:
    """Return (method, other, column, comparison) of each pair that was asked for by itself."""
    asked = table.section.contrasts if table.section else {}
    return [
        (pair.method, pair.other, table.columns[pair.column], Against.of(one, table))
        for pair, one in asked.items()
    ]


def _by_seed(cell: Cell, by_id: Mapping[str, Run]) -> dict[int, float]:
    return {by_id[one]["seed"]: number for one, number in cell.members if number is not None}


def _told(
    run: Run, number: float | None, beside: Sequence[Mapping[int, float]], metric: str, source: str
) -> dict[str, Any]:
    """Return what is said of a run: its number, and that less each baseline's of its seed."""
    seconds, commit = run.get(SECONDS), str(run.get("provenance.git.commit") or "")
    others = [None if number is None else one.get(run["seed"]) for one in beside]
    return {
        "id": str(run["id"]),
        "seed": str(run["seed"]),
        "value": NOTHING if number is None else number_text(number, metric, number),
        "differences": [
            NOTHING if number is None or other is None
            else signed_text(number - other, metric, number - other)
            for other in others
        ],
        "state": str(run["state"]),
        "seconds": (NOTHING if seconds is None else f"{seconds:.3g}")
        + (", device shared" if is_packed(run) else ""),
        "code": commit[:7] + ("+" if run.get("provenance.git.dirty") else ""),
        "link": _link(source, str(run["id"])),
    }  # fmt: skip


def _link(source: str, run_id: str) -> str:
    """Return the address of a run on a W&B server that is known to have it, else ""."""
    if source.startswith("wandb:"):
        places = [f"{_SERVER}/{source.removeprefix('wandb:')}"]
    else:
        tracked = _status(local(source), run_id).get("tracked")
        places = [str(one) for one in tracked] if isinstance(tracked, list) else []
    known = [place for place in places if _PROJECT.fullmatch(place)]
    return f"{known[0].replace(_SERVER, 'https://wandb.ai')}/runs/{quote(run_id)}" if known else ""


def _charts(
    found: Sequence[Row], runs: pd.DataFrame, source: str, metric: str, falling: bool
) -> list[dict[str, Any]]:
    """Return a chart for each dataset and model whose runs have a history of the metric.

    Each is an SVG, the rows that are its key, and as ``data`` what its script needs: the numbers
    behind each line, and the limits [x0, x1, y0, y1] that it shows.
    """
    charts = []
    for dataset, model in dict.fromkeys((row.dataset, row.model) for row in found):
        here = [row for row in found if (row.dataset, row.model) == (dataset, model)]
        drawn = curves_of(here, source, metric)
        detail = circumstances(runs[(runs["dataset"] == dataset) & (runs["model"] == model)])
        key = here[0].key.partition("-")[0]
        figure = chart(
            drawn, title=f"{model} on {dataset}", detail=f"{metric} against epochs; {detail}",
            x_label="epochs", y_label=unit_of(metric), falling=falling, bare=True,
        )  # fmt: skip
        if figure is None:
            continue
        (axes,) = figure.axes
        named = {row.place: row for row in here}
        drawn = [one for one in drawn if one.drawn]
        charts.append({
            "title": f"{model} on {dataset}", "detail": detail,
            # Paper is white, whatever the screen.
            "svg": svg(figure, salt=key).replace("@media(", "@media screen and (", 1),
            "rows": [named[one.place] for one in drawn],
            "data": {
                "column": key, "x": "epochs",
                "view": [float(end) for end in (*axes.get_xlim(), *axes.get_ylim())],
                "series": [_numbers_of(one) for one in drawn],
            },
        })  # fmt: skip
    return charts


def curves_of(here: Sequence[Row], source: str, metric: str) -> list[Series]:
    """Return the curves of rows of one dataset and model; those without a history left out."""
    drawn = [
        over_seeds(row.label, row.place, source=source, run_ids=row.cell.run_ids, metric=metric)
        for row in here
    ]
    return [one for one in drawn if one is not None]


def _numbers_of(one: Series) -> dict[str, Any]:
    good = np.isfinite(one.middle)
    points = {"x": one.x, "mean": one.middle, "low": one.low, "high": one.high}
    numbers = {name: _rounded(values[good]) for name, values in points.items()}
    return {"place": one.place, "label": one.label, "n": one.n, "banded": one.banded, **numbers}


def _rounded(values: Array) -> list[float]:
    return [float(f"{number:.{_DIGITS}g}") for number in values.tolist()]


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
                "key": row.key, "value": row.value, "layer": layer, "runs": len(group),
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


def _span(centres: Sequence[float], cells: Sequence[Cell]) -> tuple[float, float]:
    ends = [end for cell in cells for end in cell.interval]
    ends = [end for end in (*centres, *ends) if math.isfinite(end)]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _bar(centre: float, cell: Cell, span: tuple[float, float]) -> tuple[float, ...]:
    width = (span[1] - span[0]) or 1.0
    ends = [v for v in (centre, *cell.interval) if math.isfinite(v)]
    return tuple((end - span[0]) / width for end in ends)


def _cause(source: str, run_id: str) -> str:
    return str(_status(source, run_id).get("cause") or "")


def _status(source: str, run_id: str) -> dict[str, Any]:
    """Return what status.json says of a run; nothing where ``source`` is no folder of runs."""
    try:
        status = json.loads((Path(source) / run_id / STATUS).read_bytes())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}
