"""The training loop: epochs of steps, evaluation, history, checkpoints.

The state of a run is (step, weights, optimizer, schedule, random state, open window of losses);
everything else is a pure function of the config. So a run continued from any checkpoint ends, on a
CPU, with the same bits as one that was never interrupted.

Where an optimizer is to be evaluated at other weights than it trains at, evaluation, checkpoint
(``model``) and so every later use have those; the checkpoint then holds the others beside them
(``training_model``).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from typing import Any

import torch
from torch import Tensor

from bench import preemption
from bench.data.base import Batch
from bench.parts import Parts
from bench.run_folder import Row, RunFolder, State
from bench.seeding import random_state, set_random_state
from bench.setup import Setup
from bench.tracking import Tracker
from bench.training.accounting import flops_until, usage_summary, watch_memory
from bench.training.compile_lock import CompileLock
from bench.training.energy import energy_of
from bench.training.evaluation import Evaluation, laid_out, self_measurement
from bench.training.losses import DivergedError, LinAlgError, LossWindow, symptom
from bench.training.progress import make_progress
from bench.training.step import TrainingStep
from bench.training.summary import Clock, entropy_summary, summarise
from bench.training.target import OF_STEPS, Approach, Spent, target_summary


class Loop:
    """One run's training, from its newest checkpoint to its end or to divergence.

    Checkpoints follow ``checkpoint_every`` (steps) and, at an epoch's end, ``checkpoint_seconds``;
    the last step and a request to stop have one in any case. History is written at each epoch's
    end all the same. The tracker gets what a checkpoint holds: it could not take rows back.

    Args:
        setup: of the run. Where several processes make it, each has a loop; only rank 0 writes.
        parts: built for this setup.
        folder: where the run is written down.
        tracker: where it is viewed.
    """

    def __init__(self, setup: Setup, parts: Parts, folder: RunFolder, tracker: Tracker) -> None:
        self.setup, self.parts, self.folder, self.tracker = setup, parts, folder, tracker
        self.model, self.data, self.team = parts.model, parts.data, setup.team
        self.config = config = setup.config.trainer
        self.steps_per_epoch = parts.data.steps_per_epoch(config.batch_size)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.step = 0
        self.energy = energy_of(setup)
        self.clock = Clock(None if self.energy is None else self.energy.training)
        self.history: list[Row] = []
        self.approach = None if setup.target is None else Approach(setup.target)
        self._written, self._written_at = -1, time.monotonic()  # the newest checkpoint
        # Losses since the last history row.
        self.window = LossWindow(min(config.log_every, self.steps_per_epoch), setup.device)
        self.progress = make_progress(setup, self.total_steps)
        self.compile_lock = CompileLock.of("step", setup)
        self.evaluation = Evaluation(setup, parts.model, parts.optimizer, parts.data)
        self.curvature = self_measurement(config, parts.data, self.evaluation.weights, folder.path)
        self.training_step = TrainingStep(setup, parts.model, parts.optimizer, parts.schedule)

    # -- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end.

        Raises:
            DivergedError: a loss is not finite, or the optimizer's linear algebra failed when the
                training was out of hand; history holds the run until then.
            StopRequested: the process was asked to stop; a checkpoint is written.
        """
        watch_memory(self.setup.device)
        with self.progress, closing(self.energy) if self.energy else nullcontext():
            self.progress.start_at(self.step)
            if self.step == 0:
                self._measure_curvature()
            while self.step < self.total_steps:
                self._run_epoch()
                if self.step < self.total_steps:
                    self._leave_if_requested()

    def summary(self, state: State) -> dict[str, Any]:
        """Return the run's summary, ``state`` being how it ended."""
        used = usage_summary(self.setup, self.parts.cost, self.clock, self.step)
        summary = summarise(
            state,
            self.history,
            self.clock,
            steps_per_epoch=self.steps_per_epoch,
            batch_size=self.config.batch_size,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            shape=self.data.shape,
        )
        entropies = entropy_summary(self.data)
        if self.setup.device.type == "cuda":  # a step launched from Python takes another time
            used["cuda_graph"] = self.training_step.graph is not None
        if self.energy is not None:
            used |= self.energy.summary(self.history, self.clock.training)
        return {**summary, **entropies, **used, **target_summary(self.approach)}

    def _run_epoch(self) -> None:
        """The epoch from where it stands to its end, evaluation and checkpoint included."""
        for inputs, targets in self._batches():
            self._train_step(inputs, targets)
            at_end = self.step % self.steps_per_epoch == 0
            if at_end or self.step % self.config.log_every == 0:
                self._log_window()
            if not at_end:
                self._evaluate_part()
                if self._steps_are_due():
                    self._commit()
                self._leave_if_requested()
        self._log_evaluation()
        self._evaluate_part()
        self._measure_curvature()
        last = self.step == self.total_steps
        if last or self._steps_are_due() or self._seconds_are_over():
            self._commit()
        else:  # for whoever looks at the run; to resume is to write these rows again
            with self.clock("checkpoint"):
                if self.team.leads:
                    self.folder.write_history(self.history)

    def _steps_are_due(self) -> bool:
        every = self.config.checkpoint_every
        return every is not None and self.step % every == 0

    def _seconds_are_over(self) -> bool:
        """Whether the newest checkpoint is old enough by the leader's clock: all ranks write it."""
        age = time.monotonic() - self._written_at
        return self.team.any(self.team.leads and age >= self.config.checkpoint_seconds)

    def _leave_if_requested(self) -> None:
        """Stop where the process was asked to, with a checkpoint of this very step."""
        if self._stop_requested():
            if self._written != self.step:
                self._commit()
            reason = preemption.requested() or "another process of the run"
            raise preemption.StopRequested(f"{reason} at step {self.step} of {self.total_steps}")

    def _stop_requested(self) -> bool:
        return self.team.any(preemption.requested() is not None)

    def _batches(self) -> Iterator[Batch]:
        epoch, done = divmod(self.step, self.steps_per_epoch)
        seed = self.setup.config.seed
        batches = self.data.train_batches(seed, epoch, self.config.batch_size, start=done)
        while True:
            with self.clock("data"):
                batch = next(batches, None)
                if batch is None:
                    return
                inputs = laid_out(self.team.share(batch[0]), self.setup.memory_format)
            yield inputs, self.team.share(batch[1])

    def _train_step(self, inputs: Tensor, targets: Tensor) -> None:
        cold = self.training_step.cold
        with self.compile_lock if cold else nullcontext():
            try:
                with self.clock("compile" if cold else "step"):
                    self.window.add(self.training_step(inputs, targets))
            except LinAlgError as error:
                self._raise_if_diverged(error)
                raise
        self.step += 1
        self.progress.advance()

    # -- what is measured -----------------------------------------------------------------------

    def _log_window(self) -> None:
        with self.clock("step"):  # reading the losses waits for the device
            losses = self.window.take(self.team.mean)
        first = self.step - len(losses) + 1
        finite = list(itertools.takewhile(math.isfinite, losses))
        if len(finite) < len(losses):
            bad, number = losses[len(finite)], first + len(finite)
            # What was evaluated since then is no part of the run.
            self.history = [row for row in self.history if row["step"] < number]
            if finite:  # the last that is known of a run that ends here
                self._log_losses(finite, number - 1)
            raise DivergedError(f"training loss is {bad} at step {number}")
        self._log_losses(losses, self.step)

    def _log_losses(self, losses: list[float], step: int) -> None:
        # The rate of the window's last step, not of the step to come.
        schedule = self.parts.schedule
        rate = float(schedule.base_lrs[0]) * schedule.lr_lambdas[0](step - 1)
        self._log({"train/loss": sum(losses) / len(losses), "lr": rate}, step)
        self.progress.losses(self.history[-1])

    def _log_evaluation(self) -> None:
        with self.clock("evaluation"):
            measured = self.evaluation.measure(self.step)
        for name, value in measured.items():
            if not math.isfinite(value):
                raise DivergedError(f"{name} is {value} after step {self.step}")
        spent = self._spent()
        self._look_for_target(measured, spent)
        for name in ("flops", "joules"):
            if (used := spent[name]) is not None:
                measured[name] = used
        self._log(measured, self.step)
        self.progress.epoch(self.step // self.steps_per_epoch, self.history[-1])

    def _evaluate_part(self) -> None:
        """Evaluate a part of the validation split, every so many steps and after the last."""
        every = self.config.evaluate_every
        if every is None or (self.step % every and self.step != self.total_steps):
            return
        if self.setup.device.type == "cuda":
            with self.clock("step"):  # what is still to be computed is training
                torch.cuda.synchronize(self.setup.device)
        with self.clock("step_evaluation"):
            measured = self.evaluation.measure_part(self.step)
        self._look_for_target(measured, self._spent())
        if measured:
            self._log(measured, self.step)

    def _look_for_target(self, measured: Mapping[str, float], spent: Spent) -> None:
        """Look for the target in the finest evaluations that the run has of its metric."""
        if self.approach is None:
            return
        name: str = self.approach.target.metric
        if self.config.evaluate_every is not None:
            name = OF_STEPS.get(name, name)
        if name in measured:
            self.approach.see(measured[name], spent)

    def _spent(self) -> dict[str, float | None]:
        """Return what the run has spent until now, by `MEASURES`; every rank must ask."""
        cost, step = self.parts.cost, self.step
        return {
            "step": step,
            "epoch": step / self.steps_per_epoch,
            "seconds": self.clock.training,
            "flops": None if cost is None else flops_until(step, cost, self.config.batch_size),
            "joules": None if self.energy is None else self.energy.total(),
        }

    def _measure_curvature(self) -> None:
        epoch = self.step // self.steps_per_epoch
        if self.curvature is not None and self.curvature.due(epoch):
            self.evaluation.weights.at(self.step)  # to find them, every process must take part
            if not self.team.leads:
                return
            with self.clock("curvature"):
                measured = self.curvature(self.model, self.step, epoch)
            if measured:
                self._log(measured, self.step)

    def _log(self, values: dict[str, float], step: int) -> None:
        if not self.history or self.history[-1]["step"] != step:
            self.history.append({"step": step, "epoch": step / self.steps_per_epoch})
        self.history[-1].update(values)

    def _raise_if_diverged(self, error: RuntimeError) -> None:
        """Raise DivergedError if the input of the optimizer's linear algebra was no good any more.

        It is not where a preconditioner is made of gradients that explode. On sound gradients a
        failure is the optimizer's, and stays the error that it is.
        """
        if len(self.window):
            self._log_window()  # which raises where a loss is not finite
        logged = [row["train/loss"] for row in self.history if "train/loss" in row]
        shown = symptom(self.model, *(logged[0], logged[-1]) if logged else (math.inf, math.inf))
        if shown is not None:
            raise DivergedError(
                f"the optimizer's linear algebra failed at step {self.step + 1}: {shown}"
            ) from error

    # -- checkpoints ----------------------------------------------------------------------------

    def _commit(self) -> None:
        """Write history and checkpoint, and only then log to the tracker."""
        with self.clock("checkpoint"):
            state = self.state_dict()  # every rank must take part
            if self.team.leads:
                self.folder.commit(self.history, state)
                self.tracker.log(self.history)
        self._written, self._written_at = self.step, time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to continue; tensors, numbers and strings only."""
        state = {
            "step": self.step,
            "model": self.evaluation.weights.at(self.step),
            "optimizer": self.training_step.optimizer_state(),
            "schedule": self.parts.schedule.state_dict(),
            "window": self.team.mean(self.window.values()),
            "clock": self.clock.state_dict(),
            "approach": None if self.approach is None else self.approach.state_dict(),
            **random_state(self.setup.device),
        }
        if self.energy is not None:
            state["energy"] = self.energy.state_dict()
        if self.evaluation.weights.differ:
            state["training_model"] = self.model.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``, with the history up to its step."""
        self.step = int(state["step"])
        self.model.load_state_dict(state.get("training_model", state["model"]))
        self.training_step.load_optimizer_state(state["optimizer"])
        self.parts.schedule.load_state_dict(state["schedule"])
        self.window.load(state["window"])
        self.clock.load_state_dict(state["clock"])
        if self.energy is not None:
            self.energy.load_state_dict(state.get("energy"))
        approach = state.get("approach")
        if arrival := state.get("arrival"):  # of an earlier version: at an epoch's end
            found = {"spent": arrival, "interpolated": False, "resolution": self.steps_per_epoch}
            approach = {"before": None, "arrival": found}
        if self.approach is not None and approach is not None:
            self.approach.load_state_dict(approach)
        set_random_state(state, self.setup.device)
        self.history = self.folder.history(up_to_step=self.step)
