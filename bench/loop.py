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
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from bench.clock import Clock
from bench.config import TrainerConfig
from bench.data.base import Batch, Data, SplitName
from bench.evaluation_weights import EvaluationWeights
from bench.objective import cross_entropy, loss_and_hits
from bench.progress import Progress
from bench.run import Row, RunFolder, State
from bench.summary import summarise
from bench.tracking import Tracker

# Batches from which BatchNorm is measured anew at evaluation weights.
_NORM_BATCHES = 50


class DivergedError(Exception):
    """A loss is not finite; the text says which, and at which step."""


class Loop:
    """One run's training, from its newest checkpoint to its end or to divergence.

    Args:
        model: on the device, in the memory format and train mode it is to run in.
        data: gives batches on ``device``: float [B, C, H, W] or int64 [B, T] inputs, int64 targets
            [B] or [B, T].
        precision: "float32", or "bf16" for autocast to bfloat16 (parameters stay float32).
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
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.data, self.config, self.seed = data, config, seed
        self.folder, self.tracker, self.progress = folder, tracker, progress
        self.clock = Clock()
        self.device = device
        self.memory_format = memory_format
        self.autocast = torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"
        )
        self.forward = cast(nn.Module, torch.compile(model)) if config.compile else model
        self.cold = config.compile  # the first step compiles
        self.steps_per_epoch = data.steps_per_epoch(config.batch_size)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.step = 0
        self.window: list[Tensor] = []  # losses since the last history row, on the device
        self.history: list[Row] = []
        self.evaluation_weights = EvaluationWeights(
            model, optimizer, self._logits, self._norm_batches
        )

    # -- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end.

        Raises:
            DivergedError: a loss is not finite; history holds the run until then.
        """
        with self.progress:
            self.progress.start_at(self.step)
            while self.step < self.total_steps:
                self._run_epoch()

    def summary(self, state: State) -> dict[str, Any]:
        """Return the run's summary, ``state`` being how it ended."""
        return summarise(
            state,
            self.history,
            self.clock,
            steps_per_epoch=self.steps_per_epoch,
            batch_size=self.config.batch_size,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )

    def _run_epoch(self) -> None:
        """The epoch from where it stands to its end, evaluation and checkpoint included."""
        for inputs, targets in self._batches():
            self._train_step(inputs, targets)
            at_end = self.step % self.steps_per_epoch == 0
            if at_end or self.step % self.config.log_every == 0:
                self._log_window()
            if not at_end and self._checkpoint_due():
                self._commit()
        self._log_evaluation()
        self._commit()

    def _batches(self) -> Iterator[Batch]:
        epoch, done = divmod(self.step, self.steps_per_epoch)
        batches = self.data.train_batches(self.seed, epoch, self.config.batch_size, start=done)
        while True:
            with self.clock("data"):
                batch = next(batches, None)
                if batch is None:
                    return
                inputs = self._laid_out(batch[0])
            yield inputs, batch[1]

    def _laid_out(self, inputs: Tensor) -> Tensor:
        """Images in the memory format asked for; tokens have none."""
        if inputs.ndim != 4 or not inputs.is_floating_point():
            return inputs
        return inputs.to(memory_format=self.memory_format)

    def _train_step(self, inputs: Tensor, targets: Tensor) -> None:
        with self.clock("compile" if self.cold else "step"):
            self.model.train()
            self.optimizer.zero_grad(set_to_none=True)
            with self.autocast:
                logits = self.forward(inputs)
                loss = cross_entropy(logits, targets, self.config.label_smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.config.grad_clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
            self.optimizer.step()
            self.schedule.step()
            self.window.append(loss.detach())
            if self.cold and self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.cold = False
        self.step += 1
        self.progress.advance()

    def _checkpoint_due(self) -> bool:
        every = self.config.checkpoint_every
        return every is not None and self.step % every == 0

    # -- what is measured -----------------------------------------------------------------------

    def _log_window(self) -> None:
        with self.clock("step"):  # reading the losses waits for the device
            losses = torch.stack(self.window).double().tolist()
        self.window = []
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

    def _log_evaluation(self) -> None:
        with self.clock("evaluation"), self.evaluation_weights.lent(self.step):
            measured: dict[str, float] = {}
            splits: tuple[SplitName, ...] = ("val", "test")
            for split in splits:
                loss, accuracy = self._evaluate(split)
                measured |= {f"{split}/loss": loss, f"{split}/accuracy": accuracy}
        for name, value in measured.items():
            if not math.isfinite(value):
                raise DivergedError(f"{name} is {value} after step {self.step}")
        self._log(measured, self.step)
        self.progress.epoch(self.step // self.steps_per_epoch, self.history[-1])

    @torch.no_grad()
    def _evaluate(self, split: SplitName) -> tuple[float, float]:
        """Return mean cross-entropy (without smoothing) and accuracy, over a split's targets."""
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        count = 0
        for inputs, targets in self.data.eval_batches(split, self.config.eval_batch_size):
            total += torch.stack(loss_and_hits(self._logits(inputs), targets)).double()
            count += targets.numel()
        loss, accuracy = (total / count).tolist()
        return float(loss), float(accuracy)

    def _logits(self, inputs: Tensor) -> Tensor:
        with self.autocast:
            logits: Tensor = self.model(self._laid_out(inputs))
        return logits

    def _norm_batches(self) -> Iterator[Tensor]:
        """Training inputs, augmented as in training, the same ones every time."""
        batches = self.data.train_batches(self.seed, 0, self.config.batch_size)
        return (inputs for inputs, _ in itertools.islice(batches, _NORM_BATCHES))

    def _log(self, values: dict[str, float], step: int) -> None:
        if not self.history or self.history[-1]["step"] != step:
            self.history.append({"step": step, "epoch": step / self.steps_per_epoch})
        self.history[-1].update(values)

    # -- checkpoints ----------------------------------------------------------------------------

    def _commit(self) -> None:
        """Write history and checkpoint, and only then tell the tracker."""
        with self.clock("checkpoint"):
            self.folder.commit(self.history, self.state_dict())
            self.tracker.log(self.history)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to continue; tensors, numbers and strings only."""
        state = {
            "step": self.step,
            "model": self.evaluation_weights.at(self.step),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "window": list(self.window),
            "clock": self.clock.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.evaluation_weights.differ:
            state["training_model"] = self.model.state_dict()
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``, with the history up to its step."""
        self.step = int(state["step"])
        self.model.load_state_dict(state.get("training_model", state["model"]))
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.window = [loss.to(self.device) for loss in state["window"]]
        self.clock.load_state_dict(state["clock"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.history = self.folder.history(up_to_step=self.step)
