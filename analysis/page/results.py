"""docs/RESULTS.md and its figures, as text: a pure function of the archives and the sweep files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.figure.style import svg
from analysis.judge.across import NoSectionError
from analysis.judge.registered import plan_of
from analysis.page import (
    across,
    budget,
    exponents,
    figures,
    front,
    maps,
    robust,
    selection,
    verdict,
)
from analysis.page.report import provenance
from analysis.page.study import Output, Study, span, tuner, values, where
from analysis.page.table import Results, markdown, metric_of, results
from analysis.page.text import phrase
from analysis.runs import load_history
from analysis.table.model import in_percent
from analysis.table.targets import Histories
from bench.table_writer import Table, write

FRONT = "front.svg"
_ACROSS = "across.svg"
_say = partial(phrase, "study.md.j2")
# What is said of all runs together: column and words.
_PROVENANCE = {
    "device": "device", "packed": "runs at once on a device, as the launch that made them knew",
    "precision": "precision",
    "versions.torch": "torch", "git.commit": "commit", "git.dirty": "uncommitted changes",
}  # fmt: skip
_SETTINGS = ("trainer.epochs", "trainer.batch_size", "schedule", "model", "dataset")
_HASH = 40
_BRIEF = 25  # words of an answer in the first table


def pages(
    studies: Sequence[Study], folder: str, fresh: Sequence[Study] = ()
) -> tuple[str, str, dict[str, str]]:
    """Return the page, what README.md says, and the text of each figure by its file's name.

    Args:
        studies: all of them, run or not.
        folder: the figures' folder, as links on the page name it.
        fresh: fresh seeds of some of them; only README tells of those.

    Raises:
        ValueError: an archive that cannot be read, is of another study, or breaks the rules.
    """
    drawn: dict[str, Figure] = {}
    sections, answers = [], {}
    for study in studies:
        if study.archive is not None:
            out = Output(folder)
            sections.append(_section(study, studies, out))
            drawn |= out.figures
            answers[study.name] = out.answers
    overview = [
        {"name": study.name, "question": study.header.question, "counts": _counts(study),
         "answers": _brief(answers.get(study.name, []))}
        for study in studies
    ]  # fmt: skip
    together = Output(folder)
    parts = ["# Results", _say("overview", overview), _across(studies, together)]
    parts += [_say("intro", budget.RED), *sections]
    idle = [study for study in studies if study.archive is None]
    parts += ["## Not run yet", *(_say("idle", study) for study in idle)] if idle else []
    lines = front.lines([*_compared(studies, studies), *_compared(fresh, studies, fresh=True)])
    if lines:
        together.figures[FRONT] = front.drawn(lines)
    drawn |= together.figures
    text = {name: svg(drawn[name]) for name in sorted(drawn)}
    return _blocks(parts), front.text(lines), text


def _compared(
    these: Sequence[Study], everyone: Sequence[Study], *, fresh: bool = False
) -> list[front.Shown]:
    """Return the report runs of each study that are compared: those of no map."""
    shown = []
    for study in these:
        if study.archive is not None and len(study.runs):
            spent = budget.budgets(tuner(study, everyone).tuning)
            mapped = maps.of_places(study.runs, maps.axes_of(study.runs, spent))
            shown.append(front.Shown(study, study.runs[~mapped], fresh))
    return shown


def _across(studies: Sequence[Study], out: Output) -> str:
    """Return what all studies say together; empty where no section has what is ranked."""
    try:
        one = across.across([
            across.Source(study.runs, _histories(study)) for study in studies if len(study.runs)
        ])  # fmt: skip
    except NoSectionError:
        return ""
    figure = across.drawn(one)
    return across.section(one, out.figure(_ACROSS, figure, str(figure.get_label())))


def _histories(study: Study) -> Histories:
    return cache(partial(load_history, str(study.archive)))


def _blocks(parts: Sequence[str]) -> str:
    """Return Markdown of several parts, with an empty line between them."""
    return "\n".join(f"{part.strip()}\n" for part in parts if part.strip())


def _brief(answers: Sequence[str]) -> list[str]:
    """Return as many of the answers as have `_BRIEF` words together; the first at least."""
    fits = [len(" ".join(answers[: k + 1]).split()) <= _BRIEF for k in range(len(answers))]
    return list(answers[: max(1, sum(fits))])


def _counts(study: Study) -> list[str] | None:
    """Return how many runs a study has in each state; None where it has not been run."""
    if study.archive is None:
        return None
    states = Counter(study.runs["state"])
    counts = [f"{count} {state}" for state, count in sorted(states.items())]
    return [*counts, f"{len(study.tuning)} of tuning"] if len(study.tuning) else counts


def _section(study: Study, everyone: Sequence[Study], out: Output) -> str:
    tuned_by = tuner(study, everyone)
    parts: list[str] = []
    mapped: dict[budget.Place, tuple[str, ...]] = {}
    if len(study.runs):
        if tuned_by is not study:
            epochs = " or ".join(values(tuned_by.tuning, "config.trainer.epochs"))
            seeds = _seeds(tuned_by.tuning)
            parts.append(_say("tuned_elsewhere", tuned_by.name, epochs, seeds))
        spent = budget.budgets(tuned_by.tuning)
        mapped = maps.axes_of(study.runs, spent)
        rest = study.runs[~maps.of_places(study.runs, mapped)]
        plan = study.planned
        if len(rest):
            judging = partial(plan_of, study.name, study=plan.study)
            judged = results(rest, spent, plan.first, judging, _histories(study))
            for found in judged:
                asked = robust.panels(found, study, tuned_by.tuning, everyone)
                parts.append(_results(found, study, tuned_by, out, asked))
            parts.append(verdict.section(judged, out))
        parts += maps.sections(study, mapped, out) if mapped else []
    else:
        parts.append("No report runs yet, only tuning.")
    rest_of_it = {
        "Tuning": _rates(study, out),
        "Exponents, and the preprint's claims": exponents.section(study, out, apart=tuple(mapped)),
        "Protocol": _protocol(study),
        "The study's file": study.header.text,
    }
    folded = [_say("fold", name, text) for name, text in rest_of_it.items() if text]
    first = [f"## {study.name}", study.header.question, _say("answers", out.answers)]
    return _blocks([*first, *parts, *folded])


def _protocol(study: Study) -> str:
    """Return how it was done: settings that all runs share or not, seeds, devices, code."""
    kinds: list[dict[str, Any]] = []
    for name, runs in (("report", study.runs), ("tuning", study.tuning)):
        if runs.empty:
            continue
        settings = {
            key.rpartition(".")[2]: values(runs, key if key in runs else f"config.{key}")
            for key in _SETTINGS
        }
        kinds.append({
            "name": name, "runs": len(runs), "seeds": _seeds(runs),
            "planned": study.planned.size if name == "report" else 0,
            "settings": {key: shown for key, shown in settings.items() if shown},
        })  # fmt: skip
    known = provenance(pd.concat([one for one in (study.runs, study.tuning) if len(one)]))
    counts = {
        words: [(_short(name, text), count) for what, text, count in known if what == name]
        for name, words in _PROVENANCE.items()
    }
    return _say(
        "protocol", kinds, len(study.runs) and len(study.tuning), len(study.preparation),
        _seeds(study.preparation), study.planned.absent(study.runs),
        {words: shown for words, shown in counts.items() if shown}, budget.RED,
    )  # fmt: skip


def _seeds(runs: pd.DataFrame) -> str:
    return span([int(seed) for seed in runs["seed"].dropna()])


def _short(name: str, text: str) -> str:
    """Return a commit as far as git shows it, and a count without its point."""
    if name == "git.commit" and len(text) == _HASH:
        return text[:12]
    return text.removesuffix(".0") if name == "packed" else text


def _results(
    found: Results, study: Study, tuned_by: Study, out: Output, asked: Sequence[robust.Asked]
) -> str:
    """Return the results of one dataset and model."""
    sentences = verdict.sentences(found, study, asked)
    there = where(study.runs, found.dataset, found.model)
    out.answers += [f"{there}{words}" for words in verdict.short(found, asked)]
    budgets = {row.optimizer: row.budget for row in found.rows}
    shown = []
    for x in figures.axes(found):
        figure = figures.training(found, study.runs, str(study.archive), x)
        if figure is None:
            continue
        name = f"{study.name}-{found.model}-{found.dataset}-{x}.svg"
        title = f"{found.model} / {found.dataset}: {found.table.metric} against {figures.AXES[x]}"
        shown.append(out.figure(name, figure, title))
    words = ""
    if any(row.cell.n for row in found.rows):
        left_out = [(figures.AXES[x], figures.missing(found, x)) for x in figures.axes(found)]
        words = _say("figures", figures.SEEDS, left_out)
    searched = tuned_by.planned.study.tuning
    spent = budget.line(
        budgets, tuned_by.tuning, tuned=study.tuned, report=study.runs,
        known=searched.known if searched else (),
    )  # fmt: skip
    panels = robust.section(asked)
    return _say("results", found, sentences, spent, markdown(found), shown, words, panels)


def _rates(study: Study, out: Output) -> str:
    """Return how much the learning rate matters, and what chance chose, from the tuning runs."""
    if study.tuning.empty:
        return ""
    sections, chosen = [], []
    for (dataset, model), runs in study.tuning.groupby(["dataset", "model"], sort=True):
        metric = study.planned.scored_by or metric_of(runs, "val")
        title = f"{model} / {dataset}: {metric} of the tuning runs against the learning rate"
        figure = figures.sensitivity(runs, metric)
        name = f"{study.name}-{model}-{dataset}-sensitivity.svg"
        link = "" if figure is None else out.figure(name, figure, title)
        sections.append({"figure": link, "table": _rate_table(runs, metric)})
        choice = selection.selection(runs, study.runs, metric)
        if choice is not None:
            chosen.append(selection.text(choice))
        if choice is not None and choice.figure is not None:
            name = f"{study.name}-{model}-{dataset}-best-of-k.svg"
            title = f"{model} / {dataset}: {metric} of the best of k trials"
            chosen.append(out.figure(name, choice.figure, title))
    return _blocks([_say("rates", sections), *chosen])


def _rate_table(tuning: pd.DataFrame, metric: str) -> str:
    """Return which learning rates were tried, the best, and those nearly as good."""
    percent = in_percent(metric)
    slack, words = (0.01, "1 point") if percent else (0.05, "0.05")
    header = ["optimizer", "tried", "best", f"within {words} of its best {metric}", "diverged runs"]
    rows = []
    for name, points in figures.best_trials(tuning, metric).groupby("optimizer", sort=True):
        good = points.dropna(subset=["value"])
        lost = str(((tuning["optimizer"] == name) & (tuning["state"] == "diverged")).sum())
        best, near = "–", "–"
        if len(good):
            value = good["value"] if percent else -good["value"]
            best = f"{good['lr'].iloc[int(value.argmax())]:.3g}"
            near = _range(good["lr"][value >= value.max() - slack])
        rows.append([str(name), _range(points["lr"]), best, near, lost])
    return write(Table(header, rows, align="llrlr"), "markdown")


def _range(rates: pd.Series[float]) -> str:
    low, high = rates.min(), rates.max()
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g} (x{high / low:.3g})"
