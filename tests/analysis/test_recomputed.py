"""Printed numbers, computed again straight from the archives with pandas, scipy and statsmodels.

Nothing here uses the code that made them but the two calls that print.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from analysis import tables
from analysis.judge.registered import plan_of
from analysis.page import table as page_table
from analysis.page import verdict
from analysis.page.study import Output, studies
from analysis.runs import load_history

ROOT = Path(tables.__file__).parents[1]
STUDIES = {"study_a_8": "test/accuracy", "study_e_small": "test/accuracy", "study_c": "test/loss"}
LEVEL = 0.05


# -- the archives, read again ----------------------------------------------------------------------


@cache
def report(study: str) -> pd.DataFrame:
    """Return the finished report runs: optimizer, seed, whether it was packed, and its summary."""
    whole = pd.read_parquet(ROOT / "results" / f"{study}.parquet")
    rows = []
    for run in whole.to_dict("records"):
        config, status = json.loads(run["config.json"]), json.loads(run["status.json"])
        if config["sweep"] != study or config["seed"] >= 1000 or status["state"] != "done":
            continue
        at_once = json.loads(run["provenance.json"])["attempts"][-1].get("packed") or 1
        rows.append({"optimizer": config["names"]["optimizer"], "seed": config["seed"],
                     "packed": at_once > 1, "history": run["history.jsonl"],
                     **json.loads(run["summary.json"])})  # fmt: skip
    return pd.DataFrame(rows).sort_values(["optimizer", "seed"], ignore_index=True)


def paired(study: str, metric: str, one: str, other: str) -> np.ndarray:
    table = report(study).pivot_table(index="seed", columns="optimizer", values=metric)
    return (table[one] - table[other]).dropna().to_numpy()


def timed(study: str, optimizer: str) -> pd.DataFrame:
    """Return an optimizer's runs that had their device alone, all where no run of the study had."""
    runs = report(study)
    kept = runs if runs["packed"].all() else runs[~runs["packed"]]
    return kept[kept["optimizer"] == optimizer]


def curve(run: pd.Series, metric: str) -> list[tuple[float, float]]:
    """Return (step, how good) of each evaluation of a run; larger is better."""
    lines = [json.loads(line) for line in run["history"].splitlines()]
    sign = 1 if metric.endswith("accuracy") else -1
    return [(line["step"], sign * line[metric]) for line in lines if line.get(metric) is not None]


def steps_to(study: str, metric: str, baseline: str) -> pd.Series:
    """Return each run's steps to the median final value of the baseline, inf for a miss."""
    runs = report(study)
    curves = runs.apply(curve, axis=1, metric=metric.replace("test", "val"))
    aim = float(np.median([one[-1][1] for one in curves[runs["optimizer"] == baseline]]))
    steps = []
    for one in curves:
        first = next((k for k, (_, value) in enumerate(one) if value >= aim), None)
        if first is None:
            steps.append(math.inf)
        elif first == 0:
            steps.append(one[0][0])
        else:
            (before, low), (after, high) = one[first - 1 : first + 1]
            steps.append(float(np.interp(aim, [low, high], [before, after])))
    return pd.Series(steps, runs.index)


def asked(study: str) -> dict[str, Any]:
    text = (ROOT / "sweeps" / f"{study}.yaml").read_text()
    return dict(yaml.safe_load(text)["study"])


def adjusted(study: str, metric: str, baselines: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return max-T p of each comparison: Student's t under every pattern of signs, step by step."""
    names = sorted(set(report(study)["optimizer"]))
    pairs = {(one, base) for base in baselines for one in names if one != base}
    pairs |= {(one, other) for one, other in asked(study).get("contrasts", [])}
    ordered = sorted(pairs)
    data = np.array([paired(study, metric, *pair) for pair in ordered])  # [comparisons, seeds]
    signs = np.array(list(itertools.product((1, -1), repeat=data.shape[1])))
    flipped = data[None] * signs[:, None]  # [patterns, comparisons, seeds]
    with np.errstate(divide="ignore"):
        t = np.abs(stats.ttest_1samp(flipped, 0, axis=2).statistic)
    p, left = {}, list(range(len(ordered)))
    while left:
        strongest = max(left, key=lambda k: t[0, k])
        reached = np.mean(t[:, left].max(axis=1) >= t[0, strongest] * (1 - 1e-7))
        p[ordered[strongest]] = max(reached, *p.values(), 0.0)
        left.remove(strongest)
    looks = asked(study).get("looks", 1)
    return {pair: min(1.0, looks * one) for pair, one in p.items()}


def kaplan_meier(times: Sequence[float], reached: Sequence[bool]) -> float:
    """Return the first time at which half of the runs had got there."""
    data = stats.CensoredData.right_censored(times, ~np.array(reached))
    curve = stats.ecdf(data).sf
    half = curve.quantiles[curve.probabilities <= 0.5 + 1e-12]
    return float(half[0]) if half.size else math.inf


# -- what is printed -------------------------------------------------------------------------------


@cache
def printed(study: str) -> tuple[str, str]:
    """Return the page's table of a study, and that of the comparisons it asks for besides."""
    (one,) = [it for it in studies(ROOT / "results", ROOT / "sweeps") if it.name == study]
    judging = partial(plan_of, study, study=one.planned.study)
    histories = partial(load_history, str(one.archive))
    (found,) = page_table.results(one.runs, {}, one.planned.first, judging, histories)
    return page_table.markdown(found), verdict.section([found], Output("figures"))


def lines(markdown: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a Markdown table, by the first words of their columns."""
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    split = [[cell.strip(" *") for cell in row.strip("|").split(" | ")] for row in rows]
    for row in split[2:]:
        yield dict(zip([name.split(" [")[0] for name in split[0]], row, strict=True))


class Counted:
    """Compares printed numbers with computed ones, and counts them."""

    def __init__(self) -> None:
        self.numbers = 0

    def same(self, text: str, *numbers: float) -> None:
        """Each of the first numbers in ``text`` is the number, rounded to as many digits."""
        found = re.findall(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?", text)
        assert len(found) >= len(numbers), text
        for shown, number in zip(found, numbers, strict=False):
            digits = len(shown.partition(".")[2])
            assert abs(float(shown) - number) <= 0.5 * 10**-digits * (1 + 1e-6), (text, number)
            self.numbers += 1


def same_difference(
    counted: Counted, text: str, study: str, metric: str, pair: tuple[str, str]
) -> None:
    values = paired(study, metric, *pair) * (100 if metric.endswith("accuracy") else 1)
    interval = stats.ttest_1samp(values, 0).confidence_interval(1 - LEVEL)
    counted.same(text, float(values.mean()), interval.low, interval.high)


def same_p(counted: Counted, text: str, p: float) -> None:
    shown = text[text.index("p ") :]
    if shown.startswith("p < 0.001"):
        assert p < 0.001
    else:
        counted.same(shown, p)


def word(study: str, metric: str, pair: tuple[str, str], p: float) -> str:
    """Return the verdict, where no margin was declared."""
    if p > LEVEL:
        return "undecided"
    higher = float(paired(study, metric, *pair).mean()) > 0
    return "better" if higher == metric.endswith("accuracy") else "worse"


@pytest.mark.parametrize(("study", "metric"), STUDIES.items())
def test_every_number_of_a_studys_tables(study: str, metric: str) -> None:
    main, besides = printed(study)
    rows, counted = list(lines(main)), Counted()
    runs, scale = report(study), 100 if metric.endswith("accuracy") else 1
    assert [row["optimizer"] for row in rows] == sorted(set(runs["optimizer"]))
    baselines = [name.removeprefix("vs ") for name in rows[0] if name.startswith("vs ")]
    p, steps = adjusted(study, metric, baselines), steps_to(study, metric, baselines[0])
    for row in rows:
        name = row["optimizer"]
        values = DescrStatsW(scale * runs[runs["optimizer"] == name][metric])
        counted.same(row[metric], values.mean, *values.tconfint_mean(LEVEL), values.nobs)
        seconds = timed(study, name)["seconds_per_epoch"].dropna()
        counted.same(row["s/epoch"], seconds.median(), seconds.min(), seconds.max())
        for base in (base for base in baselines if base != name):
            text, pair = row[f"vs {base}"], (name, base)
            same_difference(counted, text, study, metric, pair)
            same_p(counted, text, p[pair])
            assert word(study, metric, pair, p[pair]) in text
        own, alone = runs[runs["optimizer"] == name], timed(study, name)
        same_target(counted, row["steps to target"], steps[own.index], own["steps"])
        spent = alone["clock/data_seconds"] + alone["clock/step_seconds"]
        seconds = steps[alone.index] / alone["steps"] * spent
        same_target(counted, row["s to target"], seconds, spent)
    for row in lines(besides):
        first, second = re.findall(r"`(\w+)`", row["comparison"])
        same_difference(counted, row["difference"], study, metric, (first, second))
        same_p(counted, row["corrected p"], p[first, second])
        assert row["verdict"] == word(study, metric, (first, second), p[first, second])
    assert counted.numbers >= 50


def same_target(
    counted: Counted, text: str, steps: Sequence[float], whole: Sequence[float]
) -> None:
    """``steps``: to the target, of each run, inf for a miss; ``whole``: what a miss had spent."""
    reached = np.isfinite(steps)
    median = kaplan_meier(list(np.where(reached, steps, whole)), list(reached))
    if math.isinf(median):
        assert text.startswith("missed")
    else:
        counted.same(text, median)
    assert text.endswith(f"({reached.sum()} of {len(reached)})")


def test_every_number_of_a_tables_csv(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By test loss, which no page shows; all digits, and each p by itself."""
    monkeypatch.chdir(ROOT)
    study, metric, counted = "study_a_8", "test/loss", 0
    tables.main([f"source=results/{study}.parquet", f"sweep={study}", f"metric={metric}",
                 "baseline=adamw,muon", "spread=interval", "format=csv"])  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    runs = report(study)
    p = adjusted(study, metric, ["adamw", "muon"])
    assert len(rows) == 2 * runs["optimizer"].nunique()
    for row in rows:
        pair = (row["row"], row["baseline"])
        values = DescrStatsW(runs[runs["optimizer"] == row["row"]][metric])
        expected = dict(zip(("interval_low", "interval_high"), values.tconfint_mean(), strict=True))
        expected |= {"mean": values.mean, "std": values.std_ddof(1), "n": values.nobs}
        expected |= {"iqm": stats.trim_mean(values.data, 0.25)}
        if pair[0] != pair[1]:
            differences = paired(study, metric, *pair)
            low, high = stats.ttest_1samp(differences, 0).confidence_interval()
            alone = stats.permutation_test(
                (differences,), np.mean, permutation_type="samples", n_resamples=math.inf,
                vectorized=True,
            ).pvalue  # fmt: skip
            expected |= {"difference": differences.mean(), "difference_low": low,
                         "difference_high": high, "p": alone, "adjusted_p": p[pair]}  # fmt: skip
            assert row["verdict"] == word(study, metric, pair, p[pair])
        for key, number in expected.items():
            assert float(row[key]) == pytest.approx(number, rel=1e-9), (row["row"], key)
        counted += len(expected)
    assert counted >= 50
    # One outcome of several: by loss both are worse than adamw, which the page's accuracy is not.
    worse = {row["row"] for row in rows if row["verdict"] == "worse" and row["baseline"] == "adamw"}
    assert {"muon", "spectral_newton"} <= worse
