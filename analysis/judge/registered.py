"""How a study's section is judged: by what it has registered, else by what its file asks for.

Where the metric is the registered outcome, its primary comparisons come first and its margin holds.
Every comparison has a badge: `registered`, or `found afterwards` with the reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from analysis.judge.section import Plan, Run
from analysis.judge.verdicts import Pair
from analysis.run.frame import config_columns
from bench.files import is_name
from bench.registration import (
    Badge,
    RegisteredPlan,
    Registration,
    badge,
    current_file_hash,
    find,
    places,
)
from bench.tuning.spec import Study, study_in

_NO_STUDY = Study()
_EPOCHS = "config.trainer.epochs"


def plan_of(
    sweep: str | None,
    metric: str,
    *,
    study: Study | None = None,
    level: float = 0.05,
    looks: int | None = None,
    margin: float | None = None,
) -> Plan:
    """Return how the runs of a sweep are judged by ``metric``.

    Args:
        sweep: its name; None: runs of no one sweep, of which nothing is registered.
        metric: what the comparisons are by.
        study: what the sweep's file says of itself; None: read it, if there is one.
        level: the probability of any false verdict in the section.
        looks: interim analyses; None: as registered, or as the file says, else 1.
        margin: the smallest difference that matters; None: the registered one, if it is its metric.

    Raises:
        UserError: a registration or a sweep file that is damaged.
    """
    registration = find(sweep) if sweep else None
    study = study or _study(sweep)
    contrasts = tuple(study.contrasts)
    changed: list[str] = []
    primary: tuple[Pair, ...] = ()
    secondary: tuple[Pair, ...] = ()
    if registration is not None and metric == registration.plan.outcome:
        plan = registration.plan
        primary, secondary = plan.primary, plan.secondary
        if margin not in (None, plan.margin):
            changed.append(f"margin {margin:g} is not the registered one")
        if looks not in (None, plan.looks):
            changed.append(f"{looks} interim analyses are not the registered {plan.looks}")
        if level != 0.05:
            changed.append(f"level {level:g} is not 0.05")
        margin, looks = margin or plan.margin, looks or plan.looks
    return Plan(
        level=level, looks=looks or study.looks, margin=margin,
        primary=primary, secondary=secondary, contrasts=contrasts,
        badge=_Badges(registration, metric, tuple(changed)), registered=_described(registration),
    )  # fmt: skip


def _study(sweep: str | None) -> Study:
    if not sweep or not is_name(sweep):
        return _NO_STUDY
    paths = [folder.parent / f"{sweep}.yaml" for folder in places()]
    return next((study_in(path) for path in paths if path.is_file()), _NO_STUDY)


def _described(registration: Registration | None) -> str:
    if registration is None:
        return ""
    return f"{registration.study}, {registration.time}, hash {registration.hash[:12]}"


class _Badges:
    """Returns the badge of a comparison of two rows' runs."""

    def __init__(self, registration: Registration | None, metric: str, changed: tuple[str, ...]):
        self._registration, self._metric, self._changed = registration, metric, changed
        self._current = current_file_hash(registration) if registration else None
        if registration and self._current is None:
            self._changed += (f"sweeps/{registration.sweep_file}.yaml is not found",)

    def __call__(self, pair: Pair, runs: Sequence[Run], others: Sequence[Run]) -> Badge:
        begun = [{run["seed"]: run.get("started") for run in side} for side in (runs, others)]
        both = begun[0].keys() & begun[1].keys()
        # Of both rows, the run whose length is not the registered one, if there is any.
        plan = self._registration and self._registration.plan
        odd = [run for run in (*runs, *others) if plan and run.get(_EPOCHS) != plan.horizon]
        first: dict[str, Any] = dict(next(iter((*odd, *runs)), {}))
        found = badge(
            self._registration,
            pair=pair, outcome=self._metric,
            seeds={seed: _earlier(begun[0][seed], begun[1][seed]) for seed in both},
            horizon=first.get(_EPOCHS), model=first.get("model"),
            dataset=first.get("dataset"), current=self._current,
        )  # fmt: skip
        drifted = dict.fromkeys(
            reason for run in (*runs, *others) if plan for reason in _drifted(run, plan)
        )
        return replace(found, reasons=(*found.reasons, *self._changed, *drifted))


def _drifted(run: Run, plan: RegisteredPlan) -> list[str]:
    """Return what a run's config has otherwise than registered, the first of each kind."""
    name = run["optimizer"]
    reasons = []
    if plan.tuning is not None and not run.get("config.tuned"):
        reasons.append(f"runs of {name} do not have tuned settings")
    configs = plan.configs or {}
    model, dataset = run["model"], run["dataset"]
    labels = (f"{name} {model} {dataset}", f"{name} {model}", f"{name} {dataset}", name)
    config = next((configs[label] for label in labels if label in configs), {})
    for key, value in config_columns(config).items():
        if key != _EPOCHS and run.get(key) != value:  # the length is said apart
            short = key.removeprefix("config.")
            reasons.append(f"{short}={run.get(key)} of {name} is not the registered {value}")
            break
    return reasons


def _earlier(one: str | None, other: str | None) -> str | None:
    return min(one, other) if one and other else None
