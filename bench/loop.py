"""The training loop: epochs of steps, evaluation, history, checkpoints.

The state of a run is (step, weights, optimizer, schedule, random state, open window of losses);
everything else is a pure function of the config. So a run continued from any checkpoint ends, on a
CPU, with the same bits as one that was never interrupted.

Where an optimizer is to be evaluated at other weights than it trains at, evaluation, checkpoint
(``model``) and so every later use have those; the checkpoint then holds the others beside them
(``training_model``).
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from bench import preemption
from bench.config import TrainerConfig
from bench.data.base import Batch, Data
from bench.run_folder import Row, RunFolder, State
from bench.seeding import random_state, set_random_state
from bench.tracking import Tracker
from bench.training.accounting import Cost, flops_until, usage_summary, watch_memory
from bench.training.compile_lock import CompileLock
from bench.training.evaluation import Evaluation, laid_out, self_measurement
from bench.training.losses import DivergedError, LinAlgError, LossWindow, symptom
from bench.training.parallel import ALONE, Team
from bench.training.progress import Progress
from bench.training.step import TrainingStep
from bench.training.summary import (
    Arrival,
    Clock,
    Target,
    entropy_summary,
    summarise,
    target_summary,
)


class Loop:
    """One run's training, from its newest checkpoint to its end or to divergence.

    Checkpoints follow ``checkpoint_every`` (steps) and, at an epoch's end, ``checkpoint_seconds``;
    the last step and a request to stop have one in any case. History is written at each epoch's
    end all the same. The tracker is told what a checkpoint holds: it could not take rows back.

    Args:
        model: on the device, in the memory format and train mode it is to run in.
        data: gives batches on ``device``: float [B, C, H, W] or int64 [B, T] inputs, int64 targets
            [B] or [B, T].
        precision: "float32", or "bf16" for autocast to bfloat16 (parameters stay float32).
        target: what to note the arrival at.
        cost: of a step; None where it was not measured.
        team: the processes that make this run together, each with a loop of its own.
        compile_lock: taken for the first steps.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: LambdaLR,
        data: Data,
        device: torch.device,
        config: TrainerConfig,
        seed: int,
        precision: str,
        memory_format: torch.memory_format,
        folder: RunFolder,
        tracker: Tracker,
        progress: Progress,
        target: Target | None = None,
        cost: Cost | None = None,
        team: Team = ALONE,
        compile_lock: CompileLock | None = None,
    ) -> None:
        self.model, self.schedule = model, schedule
        self.data, self.config, self.seed = data, config, seed
        self.folder, self.tracker, self.progress = folder, tracker, progress
        self.clock = Clock()
        self.device = device
        self.memory_format = memory_format
        self.steps_per_epoch = data.steps_per_epoch(config.batch_size)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.step = 0
        # Losses since the last history row.
        self.window = LossWindow(min(config.log_every, self.steps_per_epoch), device)
        self.history: list[Row] = []
        self.precision, self.cost, self.team = precision, cost, team
        self.target, self.compile_lock = target, compile_lock or CompileLock("step", None)
        self.arrival: Arrival | None = None
        self._written, self._written_at = -1, time.monotonic()  # the newest checkpoint
        self.evaluation = Evaluation(
            model=model,
            optimizer=optimizer,
            data=data,
            batch_size=config.eval_batch_size,
            norm_batches=(seed, config.batch_size),
            precision=precision,
            memory_format=memory_format,
        )
        self.curvature = self_measurement(config, data, self.evaluation.weights, folder.path)
        self.training_step = TrainingStep(
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            device=device,
            precision=precision,
            config=config,
            team=team,
            say=functools.partial(team.say, folder.path.name),
        )

    # -- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end.

        Raises:
            DivergedError: a loss is not finite, or the optimizer's linear algebra failed when the
                training was out of hand; history holds the run until then.
            StopRequested: the process was asked to stop; a checkpoint is written.
        """
        watch_memory(self.device)
        with self.progress:
            self.progress.start_at(self.step)
            if self.step == 0:
                self._measure_curvature()
            while self.step < self.total_steps:
                self._run_epoch()
                if self.step < self.total_steps:
                    self._leave_if_requested()

    def summary(self, state: State) -> dict[str, Any]:
        """Return the run's summary, ``state`` being how it ended."""
        used = usage_summary(
            self.cost,
            self.clock,
            steps=self.step,
            batch_size=self.config.batch_size,
            device=self.device,
            precision=self.precision,
            devices=self.team.size,
        )
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
        if self.device.type == "cuda":  # a step launched from Python takes another time
            used["cuda_graph"] = self.training_step.graph is not None
        return {**summary, **entropies, **used, **target_summary(self.target, self.arrival)}

    def _run_epoch(self) -> None:
        """The epoch from where it stands to its end, evaluation and checkpoint included."""
        for inputs, targets in self._batches():
            self._train_step(inputs, targets)
            at_end = self.step % self.steps_per_epoch == 0
            if at_end or self.step % self.config.log_every == 0:
                self._log_window()
            if not at_end:
                if self._steps_are_due():
                    self._commit()
                self._leave_if_requested()
        self._log_evaluation()
        self._measure_curvature()
        last = self.step == self.total_steps
        if last or self._steps_are_due() or self._seconds_are_over():
            self._commit()
        else:  # for whoever looks at the run; to resume is to write these rows again
            with self.clock("checkpoint"):
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
        batches = self.data.train_batches(self.seed, epoch, self.config.batch_size, start=done)
        while True:
            with self.clock("data"):
                batch = next(batches, None)
                if batch is None:
                    return
                inputs = laid_out(self.team.share(batch[0]), self.memory_format)
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
            if finite:  # the last that is known of a run that ends here
                self._log_losses(finite, number - 1)
            raise DivergedError(f"training loss is {bad} at step {number}")
        self._log_losses(losses, self.step)

    def _log_losses(self, losses: list[float], step: int) -> None:
        # The rate of the window's last step, not of the step to come.
        rate = float(self.schedule.base_lrs[0]) * self.schedule.lr_lambdas[0](step - 1)
        self._log({"train/loss": sum(losses) / len(losses), "lr": rate}, step)
        self.progress.losses(self.history[-1])

    def _log_evaluation(self) -> None:
        with self.clock("evaluation"):
            measured = self.evaluation.measure(self.step)
        for name, value in measured.items():
            if not math.isfinite(value):
                raise DivergedError(f"{name} is {value} after step {self.step}")
        size, epoch = self.config.batch_size, self.step / self.steps_per_epoch
        flops = None if self.cost is None else flops_until(self.step, self.cost, size)
        if self.target is not None and self.arrival is None and self.target.reached(measured):
            seconds = self.clock.training
            self.arrival = Arrival(step=self.step, epoch=epoch, seconds=seconds, flops=flops)
        if flops is not None:
            measured["flops"] = flops
        self._log(measured, self.step)
        self.progress.epoch(self.step // self.steps_per_epoch, self.history[-1])

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
        """Write history and checkpoint, and only then tell the tracker."""
        with self.clock("checkpoint"):
            self.folder.commit(self.history, self.state_dict())
            self.tracker.log(self.history)
        self._written, self._written_at = self.step, time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to continue; tensors, numbers and strings only."""
        state = {
            "step": self.step,
            "model": self.evaluation.weights.at(self.step),
            "optimizer": self.training_step.optimizer_state(),
            "schedule": self.schedule.state_dict(),
            "window": self.team.mean(self.window.values()),
            "clock": self.clock.state_dict(),
            "arrival": self.arrival,
            **random_state(self.device),
        }
        if self.evaluation.weights.differ:
            state["training_model"] = self.model.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``, with the history up to its step."""
        self.step = int(state["step"])
        self.model.load_state_dict(state.get("training_model", state["model"]))
        self.training_step.load_optimizer_state(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.window.load(state["window"])
        self.clock.load_state_dict(state["clock"])
        self.arrival = state["arrival"]
        set_random_state(state, self.device)
        self.history = self.folder.history(up_to_step=self.step)
