"""What the seeds of a planned grid can show, said before anything is spent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench import power
from bench.config import RunConfig
from bench.launch.plan import Plan
from bench.past_runs import PastRun, past_runs
from bench.registration import SHARES
from bench.tuning.spec import Study


def lines(plan: Plan, study: Study) -> list[str]:
    """Return what the seeds of a grid of optimizers can show, a line a model and dataset.

    Nothing of a grid with one optimizer.
    """
    cells: dict[tuple[str, str], list[RunConfig]] = defaultdict(list)
    for run in plan.runs:
        names = run.job.config.names
        cells[names["model"], names["dataset"]].append(run.job.config)
    several = {
        where: configs
        for where, configs in cells.items()
        if len({config.names["optimizer"] for config in configs}) > 1
    }
    counts = {where: len({one.seed for one in configs}) for where, configs in several.items()}
    share = SHARES[0] if study.registered else 1.0
    texts = [_no_verdict(count, study.looks, share) for count in sorted(set(counts.values()))]
    roots = {Path(config.runs_dir) for configs in several.values() for config in configs}
    able = {where: n for where, n in counts.items() if n >= power.fewest_seeds(study.looks, share)}
    runs = list(past_runs(min(roots))) if able else []
    texts += [_smallest(several[where], n, study, runs) for where, n in able.items()]
    return [text for text in texts if text]


def _no_verdict(count: int, looks: int, share: float) -> str:
    """Return that so many seeds cannot give a verdict; nothing where they can."""
    least, needed = power.least_p(count, looks, share), power.fewest_seeds(looks, share)
    if count >= needed:
        return ""
    times = f", times {looks} interim analyses" if looks > 1 else ""
    times += f", over the {share:g} of the level that primary comparisons have" if share < 1 else ""
    one = f"{count} seed{'s' if count > 1 else ''}"
    return (
        f"{one} cannot give a verdict: the least p is 2/2^{count}{times}, {least:.2g}; "
        f"give {needed} seeds or more"
    )


def _smallest(
    configs: Sequence[RunConfig], count: int, study: Study, runs: Sequence[PastRun]
) -> str:
    """Return the smallest difference that ``count`` seeds show with 80 % power."""
    config, asked = configs[0], study.registered
    model, dataset = config.names["model"], config.names["dataset"]
    usual = "test/loss" if "context_length" in config.dataset else "test/accuracy"
    outcome = asked.outcome if asked else usual
    spread = power.paired_spread(
        runs, outcome, dataset=dataset, model=model, epochs=config.trainer.epochs
    )
    compared = len({one.names["optimizer"] for one in configs}) - 1
    comparisons = len(asked.primary) if asked else compared
    share = SHARES[0] if asked else 1.0
    effect = power.smallest_effect(count, comparisons, study.looks, share)
    assert effect is not None  # fewer seeds are not asked about
    what = f"{count} seeds of {model} on {dataset}"
    if spread is None:
        return f"{what}: which difference they can show is not known; no past runs on {dataset}"
    beyond = "a difference of" if effect.bound else "only differences larger than"
    kind = "primary comparison" if asked else "comparison"
    margin = f"; the margin is {_size(asked.margin, outcome)}" if asked and asked.margin else ""
    return (
        f"{what} show {beyond} {_size(effect.size * spread.deviation, outcome)} in {outcome} "
        f"with 80 % power, {comparisons} {kind}{'s' if comparisons > 1 else ''} (Bonferroni)"
        f"{margin}; standard deviation of paired differences "
        f"{_size(spread.deviation, outcome)} in past runs of {spread.source}"
    )


def _size(difference: float, outcome: str) -> str:
    """Return a difference as tables print it: accuracies in points."""
    if outcome.endswith("accuracy"):
        return f"{100 * difference:.2g} points"
    return f"{difference:.2g}"
