"""How robust a study's comparisons are: their panels from the archives, as sentences and a table.

The comparisons are those that the study registered as primary; of a study without a registration
the subject's, with each baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from analysis.judge.registered import plan_of
from analysis.judge.robustness import Check, Panel, by_seeds, compared
from analysis.judge.section import optimizer_of
from analysis.judge.selection import TunedInterval, neighbours, setting_scores
from analysis.judge.verdicts import Comparison, paired
from analysis.page.study import Study
from analysis.page.table import Results, Row, only_row, p_words
from analysis.page.text import phrase
from analysis.page.trials import Trials, at_usual_length, trials_of, tuned_difference
from analysis.stats import Interval
from analysis.table.build import build_table, direction
from analysis.table.grid import by_seed
from analysis.table.model import in_percent
from analysis.table.render import NOTHING, signed_text
from analysis.table.select import records
from bench.table_writer import Table, write

SUBJECT = "spectral_newton"  # the optimizer that the benchmark is about
OUTCOMES = ("test/accuracy", "test/loss", "best/test_accuracy", "val/accuracy", "val/loss")
_TEXT = "robust.md.j2"


@dataclass(frozen=True)
class Asked:
    """A panel and the interval of its difference with the choice of settings in it."""

    panel: Panel
    tuned: TunedInterval | None


def panels(
    found: Results, study: Study, tuning: pd.DataFrame, everyone: Sequence[Study] = ()
) -> list[Asked]:
    """Return the panel of each comparison of one dataset and model that the section is about.

    Args:
        found: the results there.
        study: theirs.
        tuning: the tuning runs that chose the settings.
        everyone: all studies; those of the same question tell of other horizons.
    """
    metric = found.table.metric
    pairs = _pairs(found)
    here = _here(study.runs, found)
    by_outcome = {name: _compare(here, name, study, pairs) for name in OUTCOMES
                  if name != metric and name in here and here[name].notna().any()}  # fmt: skip
    others = [
        one for one in everyone
        if one.name != study.name and one.archive is not None and _same_question(one, study)
    ]  # fmt: skip
    horizons = {one.name: (one, _compare(_here(one.runs, found), metric, one, pairs))
                for one in others}  # fmt: skip
    trials = at_usual_length(trials_of(_here(tuning, found), metric.replace("test", "val")))
    asked = []
    for pair, own in pairs.items():
        checks = [compared("outcome", f"by {name}", name, both[pair], direction(name))
                  for name, both in by_outcome.items() if pair in both]  # fmt: skip
        checks += _targets(found, pair)
        checks += [
            compared("horizon", _at(one, found), metric, both[pair], direction(metric))
            for one, both in horizons.values() if pair in both
        ]  # fmt: skip
        checks += by_seeds(_differences(here, pair, metric), metric, direction(metric))
        checks += _beside(trials, pair, own.difference * direction(metric), metric)
        tuned = tuned_difference(
            _here(tuning, found), here, pair, metric=metric,
            scored_by=study.planned.scored_by or metric.replace("test", "val"),
        )  # fmt: skip
        asked.append(Asked(Panel(*pair, metric, own, tuple(checks)), tuned))
    return asked


def _same_question(one: Study, other: Study) -> bool:
    question = one.planned.study.part_of
    return question is not None and question == other.planned.study.part_of


def _here(runs: pd.DataFrame, found: Results) -> pd.DataFrame:
    if runs.empty:
        return runs
    return runs[(runs["dataset"] == found.dataset) & (runs["model"] == found.model)]


def _pairs(found: Results) -> dict[tuple[str, str], Comparison]:
    """Return the comparisons that the section is about, by the two optimizers."""
    section = found.table.section
    column = found.table.columns.index(f"{found.dataset}/{found.model}")
    primary = {
        (optimizer_of(asked.method), optimizer_of(asked.other)): one
        for asked, one in (section.contrasts.items() if section else ())
        if asked.tier == 0 and asked.column == column and one.n > 1
    }
    rows = [row for row in found.rows if row.optimizer == SUBJECT and row.cell.n]
    if primary or len(rows) != 1:
        return primary
    return {(SUBJECT, name): one for name, one in rows[0].against.items() if one.n > 1}


def _compare(
    runs: pd.DataFrame, metric: str, study: Study, pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Comparison]:
    """Return the pairs compared by a metric, in a section of their own study."""
    if runs.empty or metric not in runs or not runs[metric].notna().any():
        return {}
    labels = build_table(runs, metric=metric).rows
    rows = {pair: (only_row(labels, pair[0]), only_row(labels, pair[1])) for pair in pairs}
    known = {pair: both for pair, both in rows.items() if None not in both}
    plan = plan_of(study.name, metric, study=study.planned.study)
    baselines = tuple(dict.fromkeys(str(other) for _, other in known.values()))
    if not baselines:
        return {}
    table = build_table(runs, metric=metric, baseline=baselines, plan=plan)
    assert table.section is not None
    every = {
        pair: table.section.against(str(own), str(other), 0) for pair, (own, other) in known.items()
    }
    return {pair: one for pair, one in every.items() if one is not None and one.n > 1}


def _at(study: Study, found: Results) -> str:
    epochs = sorted(set(_here(study.runs, found)["config.trainer.epochs"].dropna()))
    return f"at {' or '.join(f'{one:g}' for one in epochs)} epochs ({study.name})"


def _differences(runs: pd.DataFrame, pair: tuple[str, str], metric: str) -> dict[int, float]:
    rows = records(runs, metric)
    own, other = (by_seed([run for run in rows if run["optimizer"] == name], metric)
                  for name in pair)  # fmt: skip
    return paired(own, other)


def _targets(found: Results, pair: tuple[str, str]) -> list[Check]:
    """Return which of the two comes to the target with less; a median has no test here."""
    rows: dict[str, Row] = {row.optimizer: row for row in found.rows}
    checks = []
    for k, table in enumerate(found.targets):
        cells = [rows[name].targets[k] if name in rows else None for name in pair]
        own, other = (math.nan if cell is None else cell.mean for cell in cells)
        if math.isnan(own) or math.isnan(other) or (math.isinf(own) and math.isinf(other)):
            continue
        what = table.metric.removeprefix("target/").replace("step", "steps")
        better = (other > own) - (other < own)
        checks.append(Check("target", f"by {what} to the target", table.metric, better))
    return checks


def _beside(
    trials: Sequence[Trials], pair: tuple[str, str], ahead: float, metric: str
) -> list[Check]:
    """Return whether the one ahead still is at the worst of the settings beside its own.

    By the validation score of the trials, against the other's chosen setting.
    """
    known = {one.optimizer: one for one in trials}
    if not all(name in known for name in pair):
        return []
    sign = 1 if ahead >= 0 else -1
    front, back = (known[name] for name in (pair if sign > 0 else pair[::-1]))
    scores, others = setting_scores(front.scores), setting_scores(back.scores)
    best = int(scores.argmax())
    near = sorted({k for sides in neighbours(front.settings, best) for k in sides if k is not None})
    finite = [float(scores[k]) for k in near if math.isfinite(scores[k])]
    if not finite or not math.isfinite(others.max()):
        return []
    lead = min(finite) - float(others.max())
    outcome = metric.replace("test", "val")
    difference = sign * lead * (1 if direction(outcome) > 0 else -1)
    name = f"at the worst setting beside {front.optimizer}'s, by {outcome} of the trials"
    return [Check("settings", name, outcome, sign * ((lead > 0) - (lead < 0)), difference)]


# -- what a reader sees ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What goes beside a verdict in its sentence: checks by whether they agree with it."""

    agrees: list[str]
    differs: list[str]
    opposite: list[str]


def said(one: Panel) -> Said:
    """Return what a sentence says beside the panel's verdict."""
    # That nothing is shown by other outcomes either is evidence of nothing.
    agrees = [] if one.comparison.verdict == "undecided" else one.those("agrees")
    return Said(
        [check.name for check in agrees if check.kind != "seeds"],
        [_named(check) for check in one.those("differs")],
        [_named(check) for check in one.those("opposite")],
    )


def _named(check: Check) -> str:
    """Return "undecided by test/loss (+0.003)" or "behind in seeds 5-9 (-0.02)"."""
    tested = check.verdict if check.kind != "seeds" else None
    word = tested or {1: "ahead", -1: "behind", 0: "level"}[check.better]
    return phrase(_TEXT, "check", word, check.name, _number(check)).strip()


def _number(check: Check) -> str:
    return "" if math.isnan(check.difference) else _difference(check.difference, check.outcome)


def _difference(number: float, outcome: str) -> str:
    return signed_text(number, outcome, number)


def section(these: Sequence[Asked]) -> str:
    """Return the panels as Markdown; empty where there are none."""
    return phrase(_TEXT, "section", [_shown(one) for one in these]) if these else ""


def _shown(one: Asked) -> dict[str, str]:
    panel = one.panel
    header = ["asked", "difference", "verdict", "p", "beside the verdict"]
    rows = []
    for check in panel.checks:
        verdict = check.verdict or {1: "ahead", -1: "behind", 0: "level"}[check.better]
        p = NOTHING if math.isnan(check.p) else p_words(check.p)
        rows.append([check.name, _number(check) or NOTHING, verdict, p, panel.agreement(check)])
    interval = partial(_interval, outcome=panel.outcome)
    return {
        "pair": f"`{panel.method}` against `{panel.other}`",
        "verdict": f"{panel.comparison.verdict} by {panel.outcome}",
        "unit": "points" if in_percent(panel.outcome) else "nats",
        "fixed": interval(panel.comparison.interval),
        "tuned": "" if one.tuned is None else interval(one.tuned.interval),
        "approximate": "" if one.tuned is None else f"{100 * one.tuned.approximate:.0f} %",
        "table": write(Table(header, rows, align="lrlrl"), "markdown"),
    }


def _interval(ends: Interval, outcome: str) -> str:
    return f"[{', '.join(_difference(end, outcome) for end in ends)}]"
