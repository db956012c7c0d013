"""docs/RESULTS.md and its figures, as text: a pure function of the archives and the sweep files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.page import budget, exponents, map_section, maps
from analysis.page import figures as results_figures
from analysis.page import verdict as contrasts
from analysis.page import verdict as results_verdict
from analysis.page.report import provenance
from analysis.page.study import Output, Study, span, tuner, values, where
from analysis.page.table import Results, markdown, metric_of, results
from analysis.table.model import in_percent

FRONT = "front.svg"
SENTENCE = "front.md"  # what README.md says beside it
_INTRO = """# Results

Made by `python -m analysis.results` from the archives in `results/`. The first paragraph of a study
is the header of its file in `sweeps/`, typed by hand; all else is computed, and CI fails when it no
longer matches (`python -m analysis.results --check`). Every run behind a number is in the study's
archive: `python -m analysis.tables source=results/<study>.parquet ids=true` names them. How
intervals, tests and verdicts are made is in [comparing.md](comparing.md), also why a verdict on
a few tenths of a point from five seeds can change when the same runs are made again on a GPU.
{red} marks what makes a comparison unfair.
"""


# What is said of all runs together: column and words.
_PROVENANCE = {
    "device": "device", "packed": "runs at once on a device, as the launch that made them knew",
    "precision": "precision",
    "versions.torch": "torch", "git.commit": "commit", "git.dirty": "uncommitted changes",
}  # fmt: skip
_HASH = 40


def pages(studies: Sequence[Study], figures: str) -> dict[str, str]:
    """Return the page ("RESULTS.md") and its figures by name: each the text of a file.

    `FRONT` and `SENTENCE` are of the first study that has seconds and Spectral Newton.

    Args:
        studies: all of them, run or not.
        figures: the figures' folder, as links on the page name it.

    Raises:
        ValueError: an archive that cannot be read, is of another study, or breaks the rules.
    """
    drawn: dict[str, str] = {}
    sections, answers = [], {}
    for study in studies:
        if study.archive is not None:
            out = Output(figures)
            sections.append(_section(study, tuner(study, studies), out))
            drawn = {**out.figures, **drawn}  # the front is the first study's
            answers[study.name] = "<br>".join(out.answers)
    parts = [_INTRO.format(red=budget.RED), _overview(studies, answers), *sections]
    idle = [study for study in studies if study.archive is None]
    if idle:
        parts.append("## Not run yet\n")
        parts += [_idle(study) for study in idle]
    return {"RESULTS.md": "\n".join(part.rstrip("\n") + "\n" for part in parts), **drawn}


def _overview(studies: Sequence[Study], answers: Mapping[str, str]) -> str:
    if not studies:
        return "No study yet: there is no sweeps/study_*.yaml and no archive.\n"
    lines = ["| study | question | answer | runs |", "| --- | --- | --- | --- |"]
    for study in studies:
        told = "not run yet"
        if study.archive is not None:
            states = Counter(study.runs["state"])
            parts = [f"{count} {state}" for state, count in sorted(states.items())]
            parts += [f"{len(study.tuning)} of tuning"] if len(study.tuning) else []
            told = ", ".join(parts) or "none"
        where = f"#{study.name}" if study.archive is not None else "#not-run-yet"
        question = study.header.question.replace("|", r"\|")
        answer = answers.get(study.name) or "–"
        lines.append(f"| [{study.name}]({where}) | {question} | {answer} | {told} |")
    return "\n".join(lines)


def _idle(study: Study) -> str:
    commands = "\n".join(study.header.commands)
    return f"### {study.name}\n\n{study.header.question}\n\n```console\n{commands}\n```\n"


def _section(study: Study, tuned_by: Study, out: Output) -> str:
    parts = [f"## {study.name}\n"]
    if study.header.text:
        parts.append(f"{study.header.text}\n")
    parts.append(_protocol(study))
    mapped: dict[budget.Place, tuple[str, ...]] = {}
    if len(study.runs):
        if tuned_by is not study:
            length = " or ".join(values(tuned_by.tuning, "config.trainer.epochs"))
            parts.append(
                f"Settings are those that the tuning runs of {tuned_by.name} chose, of {length}"
                f" epochs and seeds {span([int(seed) for seed in tuned_by.tuning['seed']])}; the"
                " report's seeds are disjoint from those (asserted).\n"
            )
        spent = budget.budgets(tuned_by.tuning)
        mapped = maps.axes_of(study.runs, spent)
        rest = study.runs[~maps.of_places(study.runs, mapped)]
        plan = study.planned
        if len(rest):
            for found in results(rest, spent, plan.first, plan.looks):
                parts.append(_place(found, study, tuned_by.tuning, out))
            parts.append(contrasts.section(rest, plan.contrasts, plan.looks, out))
        parts += map_section.sections(study, mapped, out) if mapped else []
    else:
        parts.append("No report runs yet, only tuning.\n")
    parts.append(_sensitivity(study, out))
    parts.append(exponents.section(study, out, apart=tuple(mapped)))
    return "\n".join(part for part in parts if part)


def _protocol(study: Study) -> str:
    """Return how it was done: settings that all runs share or not, seeds, devices, code."""
    lines = ["Protocol:\n"]
    for what, runs in (("report", study.runs), ("tuning", study.tuning)):
        if runs.empty:
            continue
        seeds = span([int(seed) for seed in runs["seed"].dropna()])
        planned = study.planned.size if what == "report" else 0
        of_planned = f" of {planned} planned" if planned > len(runs) else ""
        told = [f"{len(runs)}{of_planned} runs", f"seeds {seeds}"]
        for name in ("trainer.epochs", "trainer.batch_size", "schedule", "model", "dataset"):
            column = name if name in runs else f"config.{name}"
            found = values(runs, column)
            told += [f"{name.rpartition('.')[2]} {', '.join(found)}"] if found else []
        lines.append(f"- {what} runs: {'; '.join(told)}")
    both = pd.concat([one for one in (study.runs, study.tuning) if len(one)])
    if len(study.runs) and len(study.tuning):
        lines.append("- report and tuning seeds are disjoint (asserted)")
    if count := len(study.preparation):
        seeds = span([int(seed) for seed in study.preparation["seed"]])
        lines.append(
            f"- {count} run{'s' if count > 1 else ''} of seed {seeds} measured the exponents that"
            " some optimizers are given: in no table, and besides the tuning budget"
        )
    absent = study.planned.absent(study.runs)
    if absent:
        told = [f"{axis} {', '.join(lacking)}" for axis, lacking in absent.items()]
        lines.append(f"- planned, and not run yet: {'; '.join(told)}")
    known = provenance(both)
    for name, words in _PROVENANCE.items():
        counts = [(_short(name, text), count) for what, text, count in known if what == name]
        found = [f"{text} ({count} runs){_mark(name, text)}" for text, count in counts]
        lines += [f"- {words}: {', '.join(found)}"] if found else []
    return "\n".join(lines) + "\n"


def _mark(name: str, text: str) -> str:
    """Return a red mark for what makes a run hard to repeat."""
    return f" {budget.RED}" if (name, text) == ("git.dirty", "True") else ""


def _short(name: str, text: str) -> str:
    """Return a commit as far as git shows it, and a count without its point."""
    if name == "git.commit" and len(text) == _HASH:
        return text[:12]
    return text.removesuffix(".0") if name == "packed" else text


def _place(found: Results, study: Study, tuning: pd.DataFrame, out: Output) -> str:
    """Return the results of one dataset and model."""
    parts = [f"### {found.model} / {found.dataset}\n"]
    verdict = results_verdict.sentences(found, study)
    parts += [f"{verdict}\n"] if verdict else []
    there = where(study.runs, found.dataset, found.model)
    out.answers += [f"{there}{words}" for words in results_verdict.short(found)]
    budgets = {row.optimizer: row.budget for row in found.rows}
    parts += [
        f"{budget.line(budgets, tuning, tuned=study.tuned)}\n",
        f"{markdown(found)}\n",
    ]
    parts += ["\n".join(f"- {note}" for note in found.notes) + "\n"]
    for x in results_figures.axes(found):
        against = results_figures.AXES[x]
        title = f"{found.model} / {found.dataset}: {found.table.metric} against {against}"
        svg = results_figures.training(found, study.runs, str(study.archive), x, title=title)
        if svg:
            name = f"{study.name}-{found.model}-{found.dataset}-{x}.svg"
            if x == "seconds" and results_verdict.subject(found) and FRONT not in out.figures:
                absent = results_figures.missing(found, x)
                out.figures |= {FRONT: svg, SENTENCE: f"{verdict} {absent}".strip()}
            parts.append(out.figure(name, svg, title))
    if any(row.cell.n for row in found.rows):
        parts.append(results_figures.words(found))
    return "\n".join(parts)


def _sensitivity(study: Study, out: Output) -> str:
    """Return how much the learning rate matters, from the tuning runs."""
    parts = []
    tuning = study.tuning
    if tuning.empty:
        return ""
    for (dataset, model), runs in tuning.groupby(["dataset", "model"], sort=True):
        metric = study.planned.scored_by or metric_of(runs, "val")
        title = f"{model} / {dataset}: {metric} of the tuning runs against the learning rate"
        svg = results_figures.sensitivity(runs, metric, title=title)
        if svg:
            name = f"{study.name}-{model}-{dataset}-sensitivity.svg"
            parts.append(out.figure(name, svg, title))
        parts.append(_rates(runs, metric))
    return "\n".join(["### Learning rates\n", *parts]) if parts else ""


def _rates(tuning: pd.DataFrame, metric: str) -> str:
    """Return which learning rates were tried, the best, and those nearly as good."""
    percent = in_percent(metric)
    slack, words = (0.01, "1 point") if percent else (0.05, "0.05")
    lines = [
        f"| optimizer | tried | best | within {words} of its best {metric} | diverged runs |",
        "| --- | --- | ---: | --- | ---: |",
    ]
    trials = results_figures.best_trials(tuning, metric)
    for name, points in trials.groupby("optimizer", sort=True):
        good = points.dropna(subset=["value"])
        lost = int((tuning[tuning["optimizer"] == name]["state"] == "diverged").sum())
        if good.empty:
            lines.append(f"| {name} | {_range(points['lr'])} | – | – | {lost} |")
            continue
        value = good["value"] if percent else -good["value"]
        near = good["lr"][value >= value.max() - slack]
        best = good["lr"].iloc[int(value.argmax())]
        told = f"| {name} | {_range(points['lr'])} | {best:.3g} | {_range(near)} | {lost} |"
        lines.append(told)
    return "\n".join([*lines, "", "At each rate the best of the other settings tried with it.\n"])


def _range(rates: pd.Series[float]) -> str:
    low, high = rates.min(), rates.max()
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g} (x{high / low:.3g})"
