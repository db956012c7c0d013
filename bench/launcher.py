"""Hydra's side of a grid: expand it, plan it, carry out what is missing.

The launchers are Hydra plugins (``hydra_plugins/`` hands them over); what they do is in
``bench/launch/``.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from bench import experiment
from bench.errors import RunsFailedError, UserError
from bench.launch import live, manifest, report, slurm, snapshot
from bench.launch.execute import execute
from bench.launch.grid import Composer, Job
from bench.launch.plan import News, Plan, Retry, look, make_plan, objections
from bench.launch.pool import Pool, slots, visible_devices
from bench.lock import machine, started


class GridLauncher(Launcher):
    """What every launcher of a grid does before and after the runs.

    Args:
        retry: which runs are carried out, of those that are not done (see ``Plan.to_do``).
        fail_fast_after: start no more runs after this many failed; None: never.
    """

    elsewhere = False  # whether the runs are for another machine

    @property
    def side_by_side(self) -> bool:
        """Whether several runs are carried out at a time."""
        return self.elsewhere

    def __init__(self, retry: Retry = "all", fail_fast_after: int | None = None) -> None:
        self.retry, self.fail_fast_after = retry, fail_fast_after

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what launch() needs (Hydra's interface)."""
        del task_function  # the runs are known by their configs
        self.context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Carry out what is to be done of a grid.

        Raises:
            UserError: a combination is wrong; nothing was started.
            RunsFailedError: some runs failed; all others have finished.
        """
        del initial_job_idx
        composer = Composer(self.context.config_loader, self.config, elsewhere=self.elsewhere)
        runs_dir = Path(str(self.config.runs_dir))
        plan = make_plan(composer, job_overrides, self._news(runs_dir))
        to_do = plan.to_do(self.retry)
        for wrong in (*plan.invalid, *objections(to_do)):
            raise UserError(f"{wrong.reason} (in: {' '.join(wrong.overrides)})")
        print(plan.line(), flush=True)
        if plan.of("failed"):
            print(f"failed before:\n{self._failures(plan)}", flush=True)
        self._carry_out([run.job for run in to_do])
        self._conclude(plan)
        return []

    def _news(self, runs_dir: Path) -> News:
        """Return who knows of the runs' jobs, if anybody does."""
        del runs_dir
        return None

    def _carry_out(self, jobs: Sequence[Job]) -> None:
        raise NotImplementedError

    def _conclude(self, plan: Plan) -> None:
        """Raise RunsFailedError if any run of the plan has failed, now that all is over."""
        runs_dir = Path(str(self.config.runs_dir))
        now = Plan(tuple(look((run.job for run in plan.runs), self._news(runs_dir))))
        failed = now.of("failed")
        if failed:
            head = f"{len(failed)} of {len(now.runs)} runs failed:"
            raise RunsFailedError(f"{head}\n{self._failures(now)}")

    def _failures(self, plan: Plan) -> str:
        return report.failures(plan, list(self.config.hydra.overrides.hydra))


class LocalLauncher(GridLauncher):
    """Carries out a grid on this machine: one run after the other, or by several workers.

    Args:
        retry: see GridLauncher.
        fail_fast_after: see GridLauncher.
        workers: how many devices to use; None: every GPU, or one worker on CPU.
        pack: workers on one GPU.
    """

    def __init__(
        self,
        retry: Retry = "all",
        fail_fast_after: int | None = None,
        workers: int | None = None,
        pack: int = 1,
    ) -> None:
        super().__init__(retry, fail_fast_after)
        _check_positive(workers=workers, pack=pack)
        self.workers, self.pack = workers, pack

    @property
    def side_by_side(self) -> bool:
        """Whether several runs are carried out at a time."""
        return len(self._places()) > 1

    def _places(self) -> list[dict[str, str]]:
        count = torch.cuda.device_count()
        names = visible_devices() or [str(number) for number in range(count)]
        devices = names[:count][: self.workers]
        return slots(devices, self.pack if devices else (self.workers or 1))

    def _carry_out(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        if self.pack > 1 and not torch.cuda.device_count():
            warnings.warn(f"pack={self.pack} is for GPUs; on CPU give workers=N", stacklevel=2)
        options = {"fail_fast_after": self.fail_fast_after}
        ids = [job.identity.id for job in jobs]
        launch = manifest.create(Path(jobs[0].config.runs_dir), jobs, [ids], options)
        launch.note_process(os.getpid(), started(os.getpid()), machine())
        places = self._places()
        if len(places) == 1 or len(jobs) == 1:
            self._one_by_one(jobs)
        else:
            self._by_pool(Pool(launch, ids, places, lambda text: print(text, flush=True)))

    def _one_by_one(self, jobs: Sequence[Job]) -> None:
        failed = 0
        with experiment.keeping_data():
            for job in jobs:
                failed += execute(job.config) == "failed"
                if failed == self.fail_fast_after:
                    print(f"stopped after {failed} failures", file=sys.stderr, flush=True)
                    break

    def _by_pool(self, pool: Pool) -> None:
        try:
            pool.run()
        except KeyboardInterrupt:
            print("stopping: each run checkpoints at its next step", file=sys.stderr, flush=True)
            pool.stop()
            pool.run_down()
            raise
        if pool.launch.given_up:
            print(f"stopped after {self.fail_fast_after} failures", file=sys.stderr, flush=True)


class SlurmLauncher(GridLauncher):
    """Submits a grid as job arrays, and returns.

    Its options, and what they mean, are those of ``conf/hydra/launcher/slurm.yaml``.
    """

    elsewhere = True

    def __init__(
        self,
        retry: Retry = "all",
        fail_fast_after: int | None = None,
        wait: bool = False,
        pack: int = 1,
        runs_per_job: int = 1,
        **resources: Any,
    ) -> None:
        super().__init__(retry, fail_fast_after)
        _check_positive(pack=pack, runs_per_job=runs_per_job)
        self.wait, self.pack, self.runs_per_job = wait, pack, runs_per_job
        self.resources = slurm.parameters(resources)

    def _news(self, runs_dir: Path) -> News:
        return functools.partial(slurm.news, runs_dir)

    def _carry_out(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        runs_dir = Path(jobs[0].config.runs_dir)
        size = self.runs_per_job * self.pack * max(1, self.resources.get("gpus_per_node") or 1)
        ids = [job.identity.id for job in jobs]
        tasks = [ids[start : start + size] for start in range(0, len(ids), size)]
        options = {"fail_fast_after": self.fail_fast_after, "pack": self.pack}
        components = (job.config.components for job in jobs)
        code = snapshot.freeze(
            runs_dir, {name for one in components for name in snapshot.targets_of(one)}
        )
        launch = manifest.create(runs_dir, jobs, tasks, options)
        (launch.path / "code").symlink_to(code)
        arrays = slurm.submit(launch, code, self.resources)
        print(
            f"submitted {len(ids)} runs in {len(tasks)} jobs: "
            f"{len(arrays)} arrays ({', '.join(arrays)})\n"
            f"  python -m bench.sweep watch runs_dir={runs_dir}   a live table, until all is over\n"
            f"  python -m bench.sweep cancel runs_dir={runs_dir}   end them; they can go on later",
            flush=True,
        )
        if self.wait:
            live.watch(launch, runs_dir)

    def _conclude(self, plan: Plan) -> None:
        """Fail if all is over and not all is well; what was just submitted is another matter."""
        if self.wait or not plan.to_do(self.retry):
            super()._conclude(plan)


def _check_positive(**options: int | None) -> None:
    for name, value in options.items():
        if value is not None and value < 1:
            raise UserError(f"{name}: {value} is too few; give 1 or more")
