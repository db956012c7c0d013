"""The exponents that a study's runs hold: along training, and against the preprint's claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pandas as pd

from analysis.claim.check import check
from analysis.claim.columns import column
from analysis.claim.model import load_claims
from analysis.claim.render import number, render
from analysis.page import exponent_figures
from analysis.page.budget import Place
from analysis.page.maps import of_places
from analysis.page.output import Output
from analysis.page.study import Study
from analysis.run.measured import Measured
from analysis.stats import mean, t_interval

_VERDICTS = {"holds": "hold", "fails": "fail", "undecided": "are undecided"}
_OF_RUN = ["model", "dataset", "optimizer", "epoch"]
_ERRORS = ("triangle_relative_error", "null_noise_error", "null_permuted_error", "null_other_error")
_WORDS = """### Exponents

h = c sigma^alpha of the curvature along a gradient's singular directions, sigma_k = c k^-gamma,
h_(k) = c k^-s; exponents are means over layers, then over runs, with the 95 % interval over runs.
Error: the median over layers and runs of |s - alpha gamma| / s, which the preprint's identity makes
small, beside the same where h is a power law with noise, with its residuals permuted, and another
layer's: an identity that its null models obey as well says nothing of its own.
"""
_LINES = """Bands are 95 % intervals over runs (Student's t); dashed is the null, h a power law with
noise.
"""
_CLAIMS = """The preprint's claims on this study's own data, whatever its datasets.
{others} of {all} claims ask for other runs and are left out; all of them:
`python -m analysis.claims source={source} other_data=true`.
"""


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
    found = [check(claim, measured, other_data=True) for claim in load_claims()]
    judged = [one for one in found if one.verdict != "not measured"]
    parts = [_WORDS, along_training(measured.layers)]
    for name, title, svg in exponent_figures.along_training(measured.layers):
        parts.append(out.figure(f"{study.name}-{name}.svg", svg, title))
        if name == "identity":
            parts.append(_LINES)
    if judged:
        source, others = f"results/{study.name}.parquet", len(found) - len(judged)
        parts.append(_CLAIMS.format(others=others, all=len(found), source=source))
        parts.append(render(judged, "markdown"))
        counts = Counter(one.verdict if one.decided else "undecided" for one in judged)
        told = [f"{counts[word]} {words}" for word, words in _VERDICTS.items() if counts[word]]
        out.answers.append(
            f"of {len(judged)} of the preprint's claims, tested on this data instead of theirs,"
            f" {', '.join(told)}"
        )
    return "\n".join(parts)


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
    lines = [header, ["---"] * 3 + ["---:"] * (len(header) - 3)]
    for key, rows in layers.groupby(_OF_RUN, sort=True, dropna=False):
        names = [f"{part:g}" if isinstance(part, float) else str(part) for part in key]
        counts = [str(rows["run"].nunique()), f"{len(rows)} ({int(rows['reliable'].sum())})"]
        exponents = [_over_runs(rows, name) for name in ("alpha", "gamma", "s")]
        errors = [_median(rows, name) for name in _ERRORS]
        lines.append([*names, *counts, *exponents, *errors])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


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
