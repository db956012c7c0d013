"""The plan: the grid that is expected, compared with the run folders that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

from bench import components, experiment
from bench.errors import UserError, suggestion
from bench.identity import tracker_label
from bench.launch.grid import Composer, Invalid, Job
from bench.launch.standing import STATES, JobStatus, RunStatus, run_folder, run_status

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
