"""The plan: the grid that is expected, compared with the run folders that are there.

What the runs of a plan will cost, from what finished runs like them have cost.

What a person reads of a plan: its table, its failures by override, how to run them again.
"""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from bench import components
from bench import parts as experiment
from bench.errors import UserError, suggestion
from bench.identity import tracker_label
from bench.launch.grid import Composer, Invalid, Job
from bench.launch.status import STATES, JobStatus, RunStatus, run_folder, run_status
from bench.run_folder import SUMMARY, RunFolder

# Which of the runs that are not done are carried out.
Retry = Literal["all", "failed", "timeout", "oom", "none"]
# What the scheduler knows, for the ids of those runs that are not done.
SchedulerStatus = Callable[[Sequence[str]], Mapping[str, JobStatus]] | None
_KINDS = {"timeout": "timeout", "oom": "out of memory"}


@dataclass(frozen=True)
class Planned:
    """One run of the plan and its status."""

    job: Job
    status: RunStatus

    @property
    def words(self) -> str:
        """The overrides that tell it from its neighbours, as typed."""
        return " ".join(self.job.overrides)


@dataclass(frozen=True)
class Plan:
    """Every run of a grid once, with what is wrong with the grid itself."""

    runs: tuple[Planned, ...]
    invalid: tuple[Invalid, ...] = ()
    duplicates: Mapping[str, int] = field(default_factory=dict)  # run id -> times it was asked for

    def of(self, *states: str) -> list[Planned]:
        """Return the runs in one of these states."""
        return [run for run in self.runs if run.status.state in states]

    def to_do(self, retry: Retry = "all") -> list[Planned]:
        """Return the runs to carry out.

        Args:
            retry: "all": what is missing, interrupted or failed; "none": all but the failed;
                "failed", "timeout", "oom": only what failed, or failed by that cause.

        Raises:
            UserError: ``retry`` is none of these.
        """
        if retry not in get_args(Retry):
            raise UserError(f"retry={retry}: not possible; {suggestion(retry, get_args(Retry))}")
        failed = self.of("failed")
        if retry in _KINDS:
            return [run for run in failed if run.status.kind == _KINDS[retry]]
        if retry == "failed":
            return failed
        also = ("failed",) if retry == "all" else ()
        return self.of("missing", "interrupted", "untracked", *also)

    def line(self) -> str:
        """Return the counts: ``48 planned: 31 done, 2 running, 9 missing, 6 failed (...)``."""
        counts = Counter(run.status.state for run in self.runs)
        parts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
        kinds = Counter(str(run.status.kind) for run in self.of("failed"))
        if kinds:
            parts[-1] += f" ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common())})"
        return f"{len(self.runs)} planned: {', '.join(parts) or 'nothing'}"


def make_plan(
    composer: Composer,
    combinations: Iterable[Sequence[str]],
    scheduler: SchedulerStatus = None,
) -> Plan:
    """Compose every combination and look at its run."""
    jobs: dict[str, Job] = {}
    times: Counter[str] = Counter()
    invalid = []
    for overrides in combinations:
        made = composer.job(overrides)
        if isinstance(made, Invalid):
            invalid.append(made)
            continue
        jobs.setdefault(made.identity.id, made)
        times[made.identity.id] += 1
    return Plan(
        tuple(look(jobs.values(), scheduler)),
        tuple(invalid),
        {run_id: count for run_id, count in times.items() if count > 1},
    )


def look(
    jobs: Iterable[Job],
    scheduler: SchedulerStatus = None,
) -> list[Planned]:
    """Return the status of each of these runs now."""
    found = {job.identity.id: (job, _run_status(job)) for job in jobs}
    unclear = [run_id for run_id, (_, first) in found.items() if not first.finished]
    told = scheduler(unclear) if scheduler is not None and unclear else {}
    for run_id, one in told.items():
        job = found[run_id][0]
        found[run_id] = (job, _run_status(job, one))
    return [Planned(job, status) for job, status in found.values()]


def _run_status(job: Job, job_status: JobStatus | None = None) -> RunStatus:
    folder = run_folder(job.config, job.identity.id)
    return run_status(folder, tracker_label(job.config), job_status)


def objections(runs: Iterable[Planned]) -> list[Invalid]:
    """Return what components or data refuse: each of them is tried once, without training."""
    refused: dict[str, str | None] = {}
    found = []
    for run in runs:
        config = run.job.config
        chosen = config.components
        built = {key: chosen[key] for key in ("model", "dataset", "optimizer", "schedule")}
        data = (config.dataset, config.data_dir, config.trainer.batch_size)
        trials: dict[str, Callable[[], object]] = {
            repr(built): partial(components.try_out, chosen, config.names),
            repr(data): partial(experiment.build_data, config),
        }
        for key, trial in trials.items():
            if key not in refused:
                refused[key] = _refusal(trial)
        reason = next((text for key in trials if (text := refused[key]) is not None), None)
        if reason is not None:
            found.append(Invalid(run.job.overrides, reason))
    return found


def _refusal(trial: Callable[[], object]) -> str | None:
    try:
        trial()
    except UserError as error:
        return str(error)
    return None


# From the most to the least alike; a run is priced by the first group that has a finished run.
_ALIKE = (("dataset", "model", "optimizer"), ("dataset", "model"))


@dataclass(frozen=True)
class Cost:
    """Hours of one device for the runs that have a precedent; ``unknown`` have none."""

    hours: float
    priced: int
    unknown: int
    precedents: int
    device: str

    def __str__(self) -> str:
        if not self.priced:
            return f"no estimate: no finished run is like these {self.unknown}"
        unit = "GPU-hours" if self.device == "cuda" else "CPU-hours"
        text = (
            f"about {self.hours:.2g} {unit} for {self.priced} runs, by {self.precedents} past runs"
        )
        return f"{text}; {self.unknown} without precedent" if self.unknown else text


def estimate(runs: Iterable[Planned]) -> Cost:
    """Estimate the cost of ``runs`` by the finished runs in their ``runs_dir``.

    The estimate is epochs times the mean seconds of an epoch, evaluation and checkpoints included,
    of the finished runs of the same dataset, model and optimizer, or else of the same dataset and
    model. What runs did before an interruption is not subtracted.
    """
    runs = list(runs)
    seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
    devices, precedents = set(), 0
    for root in {run.job.config.runs_dir for run in runs}:
        for names, cost, device in _finished(Path(root)):
            precedents += 1
            devices.add(device)
            for group in _ALIKE:
                seconds[_key(names, group)].append(cost)
    total, priced = 0.0, 0
    for run in runs:
        config = run.job.config
        known = (seconds.get(_key(config.names, group)) for group in _ALIKE)
        alike = next((found for found in known if found), None)
        if alike is not None:
            total += fmean(alike) * config.trainer.epochs
            priced += 1
    device = "cuda" if "cuda" in devices else "cpu"
    return Cost(total / 3600, priced, len(runs) - priced, precedents, device)


def _key(names: Mapping[str, str], group: tuple[str, ...]) -> tuple[str, ...]:
    return (*group, *(names[key] for key in group))


def _finished(root: Path) -> Iterator[tuple[dict[str, str], float, str]]:
    """Yield names, seconds an epoch and device type of each finished run below ``root``."""
    for path in root.glob(f"*/{SUMMARY}"):
        folder = RunFolder(path.parent)
        summary, config = folder.summary, folder.config
        attempts = folder.provenance.get("attempts") or [{}]
        epochs = summary.get("epochs", 0)
        if summary.get("state") == "done" and epochs and "names" in config:
            yield config["names"], _seconds(summary) / epochs, str(attempts[-1].get("device_type"))


def _seconds(summary: dict[str, Any]) -> float:
    clocks = (value for key, value in summary.items() if key.startswith("clock/"))
    return sum(float(value) for value in clocks)


def distinct_words(runs: Sequence[Planned]) -> dict[str, str]:
    """Return, by run id, the overrides that not all of ``runs`` share."""
    if len(runs) == 1:
        return {runs[0].job.identity.id: " ".join(runs[0].job.overrides)}
    shared = set.intersection(*(set(run.job.overrides) for run in runs)) if runs else set()
    return {
        run.job.identity.id: " ".join(word for word in run.job.overrides if word not in shared)
        for run in runs
    }


def failures(plan: Plan, launch: Sequence[str] = ()) -> str:
    """Return one block a failed run: overrides, cause, last line, log, and the command again.

    ``launch`` holds the Hydra overrides of the launch, which the command repeats.
    """
    words = distinct_words(plan.runs)
    blocks = [_block(run, words[run.job.identity.id], launch) for run in plan.of("failed")]
    return "\n".join(blocks)


def _block(run: Planned, words: str, launch: Sequence[str]) -> str:
    status: RunStatus = run.status
    lines = [f"  {words or run.job.identity.id}: {status.kind}: {status.reason}"]
    if status.log is not None:
        lines.append(f"    log:   {status.log}")
    return "\n".join([*lines, f"    again: {again(run, launch)}"])


def again(run: Planned, launch: Sequence[str] = ()) -> str:
    """Return the exact command that carries out one run of the grid."""
    own = [word for word in launch if word != "hydra.mode=MULTIRUN"]  # Hydra's for -m
    return shlex.join(["python", "-m", "bench.train", "-m", *own, *run.job.overrides])


def problems(plan: Plan) -> Iterable[str]:
    """Yield a line for each thing that is wrong with the grid itself."""
    for one in plan.invalid:
        yield invalid(one)
    words = distinct_words(plan.runs)
    for run_id, times in plan.duplicates.items():
        yield f"duplicate: {words[run_id] or run_id}: asked for {times} times, runs once"


def invalid(one: Invalid) -> str:
    """Return the line of a combination that cannot run."""
    return f"invalid: {' '.join(one.overrides)}: {one.reason}"
