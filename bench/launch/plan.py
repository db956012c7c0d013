"""The plan: the grid that is expected, beside the run folders that are there.

It also says what its runs would cost, what refuses them, and what of it a person reads.
"""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Literal, get_args

import torch

from bench import components, parts
from bench.config import RunConfig, absent
from bench.errors import MissingHereError, UserError, suggestion
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
        texts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
        kinds = Counter(str(run.status.kind) for run in self.of("failed"))
        if kinds:
            texts[-1] += f" ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common())})"
        return f"{len(self.runs)} planned: {', '.join(texts) or 'nothing'}"


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


def look(jobs: Iterable[Job], scheduler: SchedulerStatus = None) -> list[Planned]:
    """Return the status of each of these runs now."""
    by_id = {job.identity.id: job for job in jobs}
    statuses = {run_id: _run_status(job) for run_id, job in by_id.items()}
    unclear = [run_id for run_id, status in statuses.items() if not status.finished]
    if scheduler is not None and unclear:
        for run_id, job_status in scheduler(unclear).items():
            statuses[run_id] = _run_status(by_id[run_id], job_status)
    return [Planned(job, statuses[run_id]) for run_id, job in by_id.items()]


def _run_status(job: Job, job_status: JobStatus | None = None) -> RunStatus:
    folder = run_folder(job.config, job.identity.id)
    return run_status(folder, tracker_label(job.config), job_status)


# -- what refuses them -----------------------------------------------------------------------------


def objections(runs: Iterable[Planned], *, elsewhere: bool = False) -> list[Invalid]:
    """Return what a device, components or data refuse, of a run each that does.

    Each of them is tried once, without training. ``elsewhere``: another machine has the device.
    """
    errors: dict[str, UserError | None] = {}
    refused = []
    for run in runs:
        for key, trial in _trials(run.job.config, elsewhere).items():
            if key not in errors:
                errors[key] = _refusal(trial)
            error = errors[key]
            if error is not None:
                # An optimizer cannot know that the file which it lacks is to be measured first.
                needs_exponents = run.job.config.exponents is None and "needs exponents" in str(
                    error
                )
                here = isinstance(error, MissingHereError) or needs_exponents
                refused.append(Invalid(run.job.overrides, str(error), here))
    return refused


def _trials(config: RunConfig, elsewhere: bool) -> dict[str, Callable[[], object]]:
    """Return what is to be tried of a run, by all that decides how that ends."""
    chosen, device = config.components, config.trainer.device
    built = {key: chosen[key] for key in ("model", "dataset", "optimizer", "schedule")}
    data = (config.dataset, config.data_dir, config.trainer.batch_size)
    return {
        **({} if elsewhere else {f"device {device}": partial(_check_device, device)}),
        repr(built): partial(components.try_out, chosen, config.names),
        repr(data): partial(parts.build_data, config),
    }


def _check_device(device: str) -> None:
    reason = absent(device)
    if reason is not None:
        none = not torch.cuda.device_count()
        raise MissingHereError("no CUDA" if none else f"trainer.device: {reason}")


def _refusal(trial: Callable[[], object]) -> UserError | None:
    try:
        trial()
    except UserError as error:
        return error
    return None


def causes(refused: Iterable[Invalid]) -> list[str]:
    """Return one line a cause: ``would be refused here: no CUDA (160 runs)``.

    A cause that holds on every machine is called invalid, and its first combination is named.
    """
    groups: dict[tuple[bool, str], dict[tuple[str, ...], None]] = defaultdict(dict)
    for one in refused:
        groups[one.here, one.reason][one.overrides] = None  # a set that keeps its order
    lines = []
    for (here, reason), combinations in groups.items():
        count = f"{len(combinations)} run{'s' if len(combinations) > 1 else ''}"
        if here:
            lines.append(f"would be refused here: {reason} ({count})")
        else:
            example = " ".join(next(iter(combinations)))
            where = f"{count}, the first: {example}" if len(combinations) > 1 else example
            lines.append(f"invalid: {reason} ({where})")
    return lines


# -- what they cost --------------------------------------------------------------------------------

# From the most to the least like a run; it is priced by the first group with a finished run.
_GROUPS = (("dataset", "model", "optimizer"), ("dataset", "model"))


@dataclass(frozen=True)
class Estimate:
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


def estimate(runs: Sequence[Planned]) -> Estimate:
    """Estimate the cost of ``runs`` by the finished runs in their ``runs_dir``.

    The estimate is epochs times the mean seconds of an epoch, evaluation and checkpoints included,
    of the finished runs of the same dataset, model and optimizer, or else of the same dataset and
    model. What runs did before an interruption is not subtracted.
    """
    seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
    devices, precedents = set(), 0
    for root in {run.job.config.runs_dir for run in runs}:
        for names, epoch_seconds, device in _finished(Path(root)):
            precedents += 1
            devices.add(device)
            for group in _GROUPS:
                seconds[_key(names, group)].append(epoch_seconds)
    total, priced = 0.0, 0
    for run in runs:
        config = run.job.config
        keys = (_key(config.names, group) for group in _GROUPS)
        known = next((seconds[key] for key in keys if key in seconds), None)
        if known is not None:
            total += fmean(known) * config.trainer.epochs
            priced += 1
    device = "cuda" if "cuda" in devices else "cpu"
    return Estimate(total / 3600, priced, len(runs) - priced, precedents, device)


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
            clocks = [float(value) for key, value in summary.items() if key.startswith("clock/")]
            yield config["names"], sum(clocks) / epochs, str(attempts[-1].get("device_type"))


# -- how a person reads them -----------------------------------------------------------------------

_LONG, _ENDS = 16, 3  # values of an axis; of a longer one so many are written at its beginning


def axes(grid: Sequence[Sequence[str]]) -> str:
    """Return what varies in a grid, and how many combinations that makes.

    ``grid of 12: optimizer=sgd,adam seed=0,1,2,3,4,5``; long axes are cut in the middle.
    """
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for override in (one for overrides in grid for one in overrides):
        key, _, value = override.partition("=")
        values[key][value] = None
    texts = [f"grid of {len(grid)}:"]
    for key, several in values.items():
        shown = list(several)
        if len(shown) > _LONG:
            shown = [*shown[:_ENDS], "...", f"{shown[-1]} ({len(shown)} values)"]
        texts += [f"{key}={','.join(shown)}"] if len(several) > 1 else []
    return " ".join(texts) if texts[1:] else f"{texts[0]} nothing varies"


def distinct_overrides(runs: Sequence[Planned]) -> dict[str, str]:
    """Return, by run id, the overrides that not all of ``runs`` share."""
    shared = set.intersection(*(set(run.job.overrides) for run in runs)) if runs[1:] else set()
    return {
        run.job.identity.id: " ".join(one for one in run.job.overrides if one not in shared)
        for run in runs
    }


def failures(plan: Plan, launch: Sequence[str] = ()) -> str:
    """Return one block a failed run: overrides, cause, last line, log, and the command again.

    ``launch`` holds the Hydra overrides of the launch, which the command repeats.
    """
    named = distinct_overrides(plan.runs)
    lines = []
    for run in plan.of("failed"):
        status, run_id = run.status, run.job.identity.id
        lines.append(f"  {named[run_id] or run_id}: {status.kind}: {status.reason}")
        if status.log is not None:
            lines.append(f"    log:   {status.log}")
        lines.append(f"    again: {again(run, launch)}")
    return "\n".join(lines)


def again(run: Planned, launch: Sequence[str] = ()) -> str:
    """Return the exact command that carries out one run of the grid."""
    own = [one for one in launch if one != "hydra.mode=MULTIRUN"]  # Hydra's for -m
    return shlex.join(["spectral-bench", "train", "-m", *own, *run.job.overrides])


def duplicates(plan: Plan) -> list[str]:
    """Return a line for each run that the grid asks for more than once."""
    named = distinct_overrides(plan.runs)
    return [
        f"duplicate: {named[run_id] or run_id}: asked for {times} times, runs once"
        for run_id, times in plan.duplicates.items()
    ]
