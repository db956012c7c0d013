"""Hydra's side of a grid: expand it, plan it, carry out what is missing.

Sweeper and launchers are Hydra plugins; ``hydra_plugins/`` hands them over.
"""

from __future__ import annotations

import functools
import shutil
import signal
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from bench import parts, preemption
from bench.config import TrainerConfig
from bench.errors import RunsFailedError, UserError
from bench.hydra_private import make_launcher
from bench.launch import live, manifest, slurm, snapshot
from bench.launch import plan as report
from bench.launch.grid import Composer, Job, combinations
from bench.launch.plan import Plan, Retry, SchedulerStatus, look, make_plan, objections
from bench.launch.pool import Pool, slots, visible_devices
from bench.launch.worker import execute
from bench.public_names import targets_of


class GridSweeper(Sweeper):
    """Hands every combination of the values given to the launcher, which checks them all.

    Args:
        params: values by key, as a sweep's file gives them; the command line's are added.
    """

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep the config, and make its launcher (Hydra's interface)."""
        self._multirun = config
        self._launcher = make_launcher(config, hydra_context, task_function)

    def sweep(self, arguments: list[str]) -> Sequence[Any]:
        """Launch all combinations (Hydra's interface); ``arguments`` are in the config too."""
        del arguments
        return self._launcher.launch(combinations(self._multirun), 0)


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
        _check_positive(fail_fast_after=fail_fast_after)
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
        plan = make_plan(composer, job_overrides, self._scheduler_status(runs_dir))
        to_do = plan.to_do(self.retry)
        wrong = [*plan.invalid, *objections(to_do, elsewhere=self.elsewhere)]
        if wrong:
            more = len({one.overrides for one in wrong}) - 1
            rest = f"; {more} more: see spectral-bench plan" if more else ""
            raise UserError(f"{wrong[0].reason} (in: {' '.join(wrong[0].overrides)}){rest}")
        print(plan.line(), flush=True)
        if plan.of("failed"):
            print(f"failed before:\n{self._failures(plan)}", flush=True)
        self._carry_out([run.job for run in to_do])
        self._conclude(plan)
        return []

    def _scheduler_status(self, runs_dir: Path) -> SchedulerStatus:
        """Return who knows of the runs' jobs, if anybody does."""
        del runs_dir
        return None

    def _carry_out(self, jobs: Sequence[Job]) -> None:
        raise NotImplementedError

    def _conclude(self, plan: Plan) -> None:
        """Raise RunsFailedError if any run of the plan has failed, now that all is over."""
        runs_dir = Path(str(self.config.runs_dir))
        now = Plan(tuple(look((run.job for run in plan.runs), self._scheduler_status(runs_dir))))
        failed = now.of("failed")
        if failed:
            head = f"{len(failed)} of {len(now.runs)} runs failed:"
            raise RunsFailedError(f"{head}\n{self._failures(now)}")

    @property
    def _options(self) -> dict[str, Any]:
        """What a launch's manifest keeps of how it runs."""
        overrides = [str(one) for one in self.config.hydra.overrides.hydra]
        return {"fail_fast_after": self.fail_fast_after, "words": overrides}

    def _failures(self, plan: Plan) -> str:
        return report.failures(plan, self._options["words"])


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

    def _places(self, trainers: Sequence[TrainerConfig] = ()) -> list[dict[str, str]]:
        """Return a slot for each worker; on CPU where no GPU is here, or wanted by ``trainers``."""
        on_cpu = bool(trainers) and all(trainer.device == "cpu" for trainer in trainers)
        count = 0 if on_cpu else torch.cuda.device_count()
        if not count:
            return slots([], self.workers or 1)
        names = visible_devices() or [str(number) for number in range(count)]
        each = _most_devices(trainers)
        used = self.workers * each if self.workers else count
        return slots(names[: min(used, count)], self.pack, each)

    def _carry_out(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        trainers = [job.config.trainer for job in jobs]
        places = self._places(trainers)
        together = len(places) > 1 and len(jobs) > 1
        if self.pack > 1 and "CUDA_VISIBLE_DEVICES" not in places[0]:
            warnings.warn(f"pack={self.pack} is for GPUs; on CPU give workers=N", stacklevel=2)
        numbered = next((trainer.device for trainer in trainers if ":" in trainer.device), None)
        if together and numbered:
            raise UserError(
                f"trainer.device={numbered}: each worker has a GPU of its own; write cuda and "
                "choose GPUs by CUDA_VISIBLE_DEVICES, or give workers=1"
            )
        ids = [job.identity.id for job in jobs]
        launch = manifest.create(Path(jobs[0].config.runs_dir), jobs, [ids], self._options)
        launch.note_process()
        if not together:
            self._one_by_one(jobs)
        else:
            self._by_pool(Pool(launch, ids, places, lambda text: print(text, flush=True)))

    def _one_by_one(self, jobs: Sequence[Job]) -> None:
        failed = 0
        with parts.keeping_data(), preemption.answering():
            for job in jobs:
                failed += execute(job.config) == "failed"
                if failed == self.fail_fast_after:
                    print(f"stopped after {failed} failures", file=sys.stderr, flush=True)
                    break

    def _by_pool(self, pool: Pool) -> None:
        with preemption.answering(_interrupt):
            try:
                pool.run()
            except KeyboardInterrupt:
                text = "stopping: each run checkpoints at its next step"
                print(text, file=sys.stderr, flush=True)
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

    def _scheduler_status(self, runs_dir: Path) -> SchedulerStatus:
        return functools.partial(slurm.scheduler_status, runs_dir)

    def _carry_out(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        runs_dir = Path(jobs[0].config.runs_dir)
        each = _most_devices([job.config.trainer for job in jobs])
        at_once = self.pack * max(1, (self.resources.get("gpus_per_node") or 1) // each)
        size = self.runs_per_job * at_once
        ids = [job.identity.id for job in jobs]
        tasks = [ids[start : start + size] for start in range(0, len(ids), size)]
        options = {**self._options, "pack": self.pack, "devices": each}
        components = (job.config.components for job in jobs)
        code = snapshot.freeze(runs_dir, {name for one in components for name in targets_of(one)})
        launch = manifest.create(runs_dir, jobs, tasks, options)
        (launch.path / "code").symlink_to(code)
        try:
            arrays = slurm.submit(launch, code, self.resources)
        except UserError:
            if not launch.submitted:  # nobody is to find a launch that never was
                shutil.rmtree(launch.path)
            raise
        print(
            f"submitted {len(ids)} runs in {len(tasks)} jobs: "
            f"{len(arrays)} arrays ({', '.join(arrays)})\n"
            f"  spectral-bench watch runs_dir={runs_dir}   a live table, until all is over\n"
            f"  spectral-bench cancel runs_dir={runs_dir}   end them; they can go on later",
            flush=True,
        )
        if self.wait:
            live.watch(launch, runs_dir)

    def _conclude(self, plan: Plan) -> None:
        """Fail if all is over and not all is well; what was just submitted is another matter."""
        if self.wait or not plan.to_do(self.retry):
            super()._conclude(plan)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    raise KeyboardInterrupt(signal.Signals(number).name)


def _most_devices(trainers: Iterable[TrainerConfig]) -> int:
    """Return how many GPUs a run needs, of those that need most."""
    return max((trainer.devices for trainer in trainers), default=1)


def _check_positive(**options: int | None) -> None:
    for name, value in options.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"{name}: {value} is no number of them; give 1 or more")
