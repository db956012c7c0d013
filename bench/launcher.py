"""The launcher of grids on this machine: check all, skip what is done, go on when a run fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from bench import experiment
from bench.config import RunConfig, from_hydra
from bench.errors import RunsFailedError, UserError
from bench.identity import identify
from bench.run import RunFolder


class LocalLauncher(Launcher):
    """Runs the jobs of a multirun one after the other in this process.

    Before any work, every job's config is composed and checked, so that a mistake in the last
    one does not show after hours. A failed run is reported by its overrides at the end.
    """

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what launch() needs (Hydra's interface)."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run every job; return Hydra's record of each.

        Raises:
            UserError: a job's config is wrong; nothing was started.
            RunsFailedError: some jobs failed; all others have finished.
        """
        jobs = [self._compose(list(overrides)) for overrides in job_overrides]
        checked = [
            _named(overrides, job) for overrides, job in zip(job_overrides, jobs, strict=True)
        ]
        _check_data(checked)
        _print_plan(checked)
        returns, failures = [], []
        for index, (job, overrides) in enumerate(zip(jobs, job_overrides, strict=True)):
            with open_dict(job):
                job.hydra.job.id = job.hydra.job.num = initial_job_idx + index
            result = run_job(
                hydra_context=self.context,
                task_function=self.task,
                config=job,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            returns.append(result)
            if result.status is not JobStatus.COMPLETED:
                failures.append(f"  {' '.join(overrides)}: {_reason(result)}")
        if failures:
            raise RunsFailedError(
                f"{len(failures)} of {len(jobs)} runs failed:\n" + "\n".join(failures)
            )
        return returns

    def _compose(self, overrides: list[str]) -> DictConfig:
        return self.context.config_loader.load_sweep_config(self.config, overrides)


def _named(overrides: Sequence[str], job: DictConfig) -> RunConfig:
    try:
        return from_hydra(job)
    except UserError as error:
        raise UserError(f"{error} (in: {' '.join(overrides)})") from error


def _check_data(configs: Sequence[RunConfig]) -> None:
    """Load each dataset of the grid once, so that a missing one shows before any work."""
    seen = set()
    for config in configs:
        key = (repr(config.dataset), config.data_dir, config.trainer.batch_size)
        if key not in seen:
            seen.add(key)
            experiment.build_data(config)


def _print_plan(configs: Sequence[RunConfig]) -> None:
    ids = dict.fromkeys((config.runs_dir, identify(config).id) for config in configs)
    states = Counter(_state(RunFolder(Path(root) / name)) for root, name in ids)
    counted = ", ".join(f"{states[state]} {state}" for state in sorted(states))
    print(f"{len(ids)} runs planned: {counted}", flush=True)


def _state(folder: RunFolder) -> str:
    state = str(folder.status.get("state", "to do"))
    return "interrupted" if state == "running" else state


def _reason(result: JobReturn) -> str:
    error = result._return_value
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, UserError) else f"{type(error).__name__}: {lines[0]}"
