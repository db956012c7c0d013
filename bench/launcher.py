"""Hydra's side of a grid: expand it, plan it, carry out what is missing.

The sweeper and the launchers are Hydra plugins (``hydra_plugins/`` hands them over); what they do
is in ``bench/launch/``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from bench.errors import RunsFailedError, UserError
from bench.launch import report
from bench.launch.execute import execute
from bench.launch.grid import Composer, Job
from bench.launch.plan import Plan, Planned, Retry, look, make_plan, objections


class GridSweeper(BasicSweeper):
    """Every combination of the values given, as Hydra's own; the launcher checks them all."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Do nothing: Hydra would compose each combination once more."""


class GridLauncher(Launcher):
    """What every launcher of a grid does before and after the runs.

    Args:
        retry: which runs are carried out, of those that are not done (see ``Plan.to_do``).
        fail_fast_after: start no more runs after this many failed; None: never.
    """

    elsewhere = False  # whether the runs are for another machine

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
        plan = make_plan(composer, job_overrides)
        to_do = plan.to_do(self.retry)
        for wrong in (*plan.invalid, *objections(to_do)):
            raise UserError(f"{wrong.reason} (in: {' '.join(wrong.overrides)})")
        print(plan.line(), flush=True)
        if plan.of("failed"):
            print(f"failed before:\n{self._failures(plan)}", flush=True)
        self._carry_out([run.job for run in to_do])
        self._conclude(plan)
        return []

    def _carry_out(self, jobs: Sequence[Job]) -> None:
        raise NotImplementedError

    def _conclude(self, plan: Plan) -> None:
        """Raise RunsFailedError if any run of the plan has failed, now that all is over."""
        now = Plan(tuple(look(run.job for run in plan.runs)))
        failed = now.of("failed")
        if failed:
            head = f"{len(failed)} of {len(now.runs)} runs failed:"
            raise RunsFailedError(f"{head}\n{self._failures(now)}")

    def _failures(self, plan: Plan) -> str:
        return report.failures(plan, list(self.config.hydra.overrides.hydra))


class LocalLauncher(GridLauncher):
    """Carries out a grid on this machine."""

    def _carry_out(self, jobs: Sequence[Job]) -> None:
        failed = 0
        for job in jobs:
            failed += execute(job.config) == "failed"
            if failed == self.fail_fast_after:
                print(f"stopped after {failed} failures", file=sys.stderr, flush=True)
                break


__all__ = ["GridLauncher", "GridSweeper", "LocalLauncher", "Planned"]
