"""The exponents that a study's runs hold: along training, and against the preprint's claims.

Figures along training show alpha, gamma and s, and the identity beside its null.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.claim.check import Result, check
from analysis.claim.model import column, load_claims
from analysis.figure.lines import Series, chart
from analysis.figure.style import COLOURS
from analysis.page import figures
from analysis.page.budget import Place
from analysis.page.claims import render
from analysis.page.maps import of_places
from analysis.page.study import Output, Study
from analysis.page.text import number, phrase
from analysis.run.measured import Measured
from analysis.stats import mean, t_interval
from bench.table_writer import Table, write

_FEWEST = 3  # epochs: two stand in the table
_NETWORK = ["model", "dataset", "optimizer"]
_IDENTITY = ("triangle_relative_error", "null_noise_error")


def figures_along_training(layers: pd.DataFrame) -> Iterator[tuple[str, str, Figure]]:
    """Yield name, title and figure of each; none where fewer than three epochs were measured.

    Args:
        layers: the layers of `analysis.run.measured.Measured`.
    """
    every = [
        (" / ".join(map(str, key)), rows)
        for key, rows in layers.groupby(_NETWORK, sort=True)
        if rows["epoch"].nunique() >= _FEWEST
    ]
    networks = every[: len(COLOURS)]
    left_out = f"; the first {len(networks)} of {len(every)} networks" * (networks != every)
    shown: list[tuple[str, str, str, str, Sequence[Series | None]]] = [
        (name, f"{name} along training", "mean over layers, then over runs", name,
         [_exponent(label, k, rows, name) for k, (label, rows) in enumerate(networks)])
        for name in ("alpha", "gamma", "s")
    ]  # fmt: skip
    pairs = [one for k, (label, rows) in enumerate(networks) for one in _identity(label, k, rows)]
    title = "|s - alpha gamma| / s in %, along training"
    shown += [("identity", title, "median over layers and runs", "relative error (%)", pairs)]
    for name, title, detail, y_label, lines in shown:
        figure = chart(
            [line for line in lines if line is not None], title=title, detail=f"{detail}{left_out}",
            x_label=figures.AXES["epoch"], y_label=y_label, whole=True,
        )  # fmt: skip
        if figure is not None:
            yield name, f"{title}: {detail}{left_out}", figure


def _exponent(label: str, place: int, rows: pd.DataFrame, name: str) -> Series | None:
    """Return the mean over runs of their layers' mean, with its 95 % interval."""
    known = rows.assign(value=column(rows, name)).dropna(subset=["value"])
    if known.empty:
        return None
    of_run = known.groupby(["epoch", "run"], sort=True)["value"].agg(lambda v: mean(v.to_numpy()))
    epochs = sorted(set(of_run.index.get_level_values("epoch")))
    values = [of_run.loc[epoch].to_numpy() for epoch in epochs]
    middle = np.array([mean(one) for one in values])
    ends = np.array([t_interval(one) for one in values])
    low, high = np.where(np.isnan(ends), middle[:, None], ends).T
    return Series(label, place, np.array(epochs, dtype=np.float64), middle, low, high)


def _identity(label: str, place: int, rows: pd.DataFrame) -> Iterator[Series]:
    """Yield the identity's median error in percent, and that of a power law with noise, dashed."""
    for name in _IDENTITY:
        if name not in rows:
            continue
        errors = rows.assign(value=column(rows, name)).groupby("epoch", sort=True)["value"].median()
        at, middle = (np.asarray(v, dtype=np.float64) for v in (errors.index, 100 * errors))
        null = name != _IDENTITY[0]
        own = f"{label}{' (null)' * null}"
        yield Series(own, place, at, middle, middle, middle, dashed=null)


_OF_RUN = ["model", "dataset", "optimizer", "epoch"]
_ERRORS = ("triangle_relative_error", "null_noise_error", "null_permuted_error", "null_other_error")
_say = partial(phrase, "exponents.md.j2")


def section(study: Study, out: Output, *, apart: Sequence[Place] = ()) -> str:
    """Return a study's exponents as Markdown; empty where none of its finished runs has any.

    Args:
        study: whose runs they are.
        out: gets the figures, and how many claims hold.
        apart: optimizers whose runs are a map of settings: no mean over those would mean anything.
    """
    if not any((runs["state"] == "done").any() for runs in (study.runs, study.preparation)):
        return ""
    measured = _without(study.measured, apart)
    if measured.layers.empty:
        return ""
    figures_of = {
        name: out.figure(f"{study.name}-{name}.svg", figure, title)
        for name, title, figure in figures_along_training(measured.layers)
    }
    every, judged = judged_claims(measured)
    if judged:
        counts = Counter(one.verdict if one.decided else "undecided" for one in judged)
        out.answers.append(_say("answer", counts))
    claims = {
        "all": every, "judged": len(judged), "source": f"results/{study.name}.parquet",
        "report": render(judged, "markdown"),
    }  # fmt: skip
    return _say("section", along_training(measured.layers), figures_of, claims)


def judged_claims(measured: Measured) -> tuple[int, list[Result]]:
    """Return how many claims there are, and the results of those that these runs can test.

    They are tested on whatever data there are, not on the stated ones alone.
    """
    results = [check(claim, measured, other_data=True) for claim in load_claims()]
    return len(results), [one for one in results if one.verdict != "not measured"]


def _without(measured: Measured, apart: Sequence[Place]) -> Measured:
    """Return what was measured on runs of other places than those ``apart``."""
    if not apart:
        return measured
    tables = {one.name: getattr(measured, one.name) for one in fields(measured)}
    kept = {n: t[~of_places(t, apart)] if len(t) else t for n, t in tables.items()}
    return Measured(**kept)


def along_training(layers: pd.DataFrame) -> str:
    """Return a table of one row a model, dataset, optimizer and epoch.

    Args:
        layers: the layers of `analysis.run.measured.Measured`.
    """
    header = [*_OF_RUN, "runs", "layers (reliable)", "alpha", "gamma", "s", "error", "noise",
              "permuted", "other"]  # fmt: skip
    lines = []
    for key, rows in layers.groupby(_OF_RUN, sort=True, dropna=False):
        names = [f"{part:g}" if isinstance(part, float) else str(part) for part in key]
        counts = [str(rows["run"].nunique()), f"{len(rows)} ({int(rows['reliable'].sum())})"]
        exponents = [_over_runs(rows, name) for name in ("alpha", "gamma", "s")]
        errors = [_median(rows, name) for name in _ERRORS]
        lines.append([*names, *counts, *exponents, *errors])
    align = "lll" + "r" * (len(header) - 3)
    return write(Table(header, lines, align, markdown=True), "markdown")


def _over_runs(rows: pd.DataFrame, name: str) -> str:
    """Return the mean over runs of their layers' mean, with its interval: "1.43 [1.30, 1.56]"."""
    known = rows.assign(value=column(rows, name)).dropna(subset=["value"])
    runs: Sequence[float] = [mean(of_run.to_numpy()) for _, of_run in known.groupby("run")["value"]]
    if not runs:
        return "–"
    ends = t_interval(runs)
    interval = "" if np.isnan(ends.low) else f" [{ends.low:.2f}, {ends.high:.2f}]"
    return f"{mean(runs):.2f}{interval}"


def _median(rows: pd.DataFrame, name: str) -> str:
    if name not in rows:
        return "–"
    known = column(rows, name).dropna()
    return number(float(known.median()), percent=True) if len(known) else "–"
