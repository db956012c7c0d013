"""How good a network is while it is trained: loss, accuracy, and its curvature where asked for.

All are measured at the evaluation weights. They differ from the training weights where an optimizer
has ``eval()`` and ``train()`` (Schedule-Free), which move the network from the point where
gradients are taken to the average that is meant to be used, and back.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.config import Epochs, TrainerConfig
from bench.data.base import Batch, Data, SplitName
from bench.hydra_private import instantiate
from bench.seeding import generator
from bench.setup import Setup
from bench.training.losses import loss_and_hits
from bench.training.target import OF_STEPS

Weights = dict[str, Tensor]


class EvaluationWeights:
    """Computes a network's evaluation weights and lends them to it, leaving training as it was.

    ``optimizer.eval()`` and ``train()`` undo each other up to rounding only, so the training
    weights are kept and put back bit by bit: how often a run is evaluated or written down does not
    change it. BatchNorm's running statistics belong to the training weights; those of the
    evaluation weights are measured anew, as plain averages over the batches that ``batches`` gives
    (dropout off), each a tensor of inputs that ``forward`` takes.

    Attributes:
        differ: whether the optimizer has evaluation weights of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        forward: Callable[[Tensor], Any],
        batches: Callable[[], Iterable[Tensor]],
    ) -> None:
        self.model, self.forward, self.batches = model, forward, batches
        self._train = getattr(optimizer, "train", None)
        self._eval = getattr(optimizer, "eval", None)
        self.differ = callable(self._train) and callable(self._eval)
        self._weights: tuple[int, Weights] | None = None
        if self._train is not None and self.differ:
            self._train()  # some refuse to step before this

    @torch.no_grad()
    def at(self, step: int) -> Weights:
        """Return the evaluation weights and buffers after ``step``, computed once for each step."""
        if not self.differ or self._eval is None or self._train is None:
            return self.model.state_dict()
        if self._weights is None or self._weights[0] != step:
            kept = _copied(self.model)
            try:
                self._eval()
                self._measure_batch_norms()
                self._weights = (step, _copied(self.model))
            finally:
                self._train()
                self.model.load_state_dict(kept)
        return self._weights[1]

    @contextmanager
    def lent(self, step: int) -> Iterator[None]:
        """Give the network its evaluation weights after ``step`` for a while."""
        if not self.differ:
            yield
            return
        weights, kept = self.at(step), _copied(self.model)
        try:
            self.model.load_state_dict(weights)
            yield
        finally:
            self.model.load_state_dict(kept)

    def _measure_batch_norms(self) -> None:
        norms = [
            (module, module.momentum)
            for module in self.model.modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
        ]
        if not norms:
            return
        training = self.model.training
        self.model.eval()
        for norm, _ in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average
            norm.train()
        try:
            for inputs in self.batches():
                self.forward(inputs)
        finally:
            self.model.train(training)
            for norm, momentum in norms:
                norm.momentum = momentum


def _copied(model: nn.Module) -> Weights:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# Batches from which BatchNorm is measured anew at evaluation weights.
_NORM_BATCHES = 50


class Evaluation:
    """Measures a network that is being trained, and leaves its training as it was.

    Args:
        setup: of the run.
        model: on the data's device.
        optimizer: knows at which weights it is to be evaluated.

    Attributes:
        weights: the evaluation weights.
    """

    def __init__(
        self, setup: Setup, model: nn.Module, optimizer: torch.optim.Optimizer, data: Data
    ) -> None:
        self.setup, self.model, self.data = setup, model, data
        self.weights = EvaluationWeights(model, optimizer, self.logits, self._norm_inputs)

    def measure(self, step: int) -> dict[str, float]:
        """Return "val/loss", "val/accuracy" and the test split's, at the weights after ``step``."""
        measured: dict[str, float] = {}
        splits: tuple[SplitName, ...] = ("val", "test")
        with self.weights.lent(step):
            for split in splits:
                loss, accuracy = self.split(split)
                measured |= {f"{split}/loss": loss, f"{split}/accuracy": accuracy}
        return measured

    def measure_part(self, step: int) -> dict[str, float]:
        """Return `OF_STEPS`: loss and accuracy of a small part of the validation split.

        Positions in the split are drawn once, whatever the run's seed, so that all runs of a
        dataset are measured at the same ones. Random numbers that the network draws are taken back.
        Nothing where the loss is not finite: the training loss will say so, or recovers.
        """
        cuda = [self.setup.device] if self.setup.device.type == "cuda" else []
        size = self.setup.config.trainer.eval_batch_size
        with torch.random.fork_rng(cuda), self.weights.lent(step):
            inputs, targets = self._part
            batches = zip(torch.split(inputs, size), torch.split(targets, size), strict=True)
            loss, accuracy = self._measured(batches)
        if not math.isfinite(loss):
            return {}
        return {OF_STEPS["val/loss"]: loss, OF_STEPS["val/accuracy"]: accuracy}

    @functools.cached_property
    def _part(self) -> Batch:
        """The samples of `measure_part`, on the device, in the split's order."""
        trainer, total = self.setup.config.trainer, self.data.size("val")
        order = torch.randperm(total, generator=generator(0, "part of the validation split"))
        chosen = torch.zeros(total, dtype=torch.bool)
        chosen[order[: trainer.evaluate_samples]] = True
        parts = []
        for inputs, targets in self.data.eval_batches("val", trainer.eval_batch_size):
            here, chosen = chosen[: len(inputs)].to(inputs.device), chosen[len(inputs) :]
            parts.append((inputs[here], targets[here]))
        inputs, targets = map(torch.cat, zip(*parts, strict=True))
        return inputs, targets

    def split(self, name: SplitName) -> tuple[float, float]:
        """Return mean cross-entropy (without smoothing) and accuracy, over a split's targets."""
        size = self.setup.config.trainer.eval_batch_size
        return self._measured(self.data.eval_batches(name, size))

    @torch.no_grad()
    def _measured(self, batches: Iterable[Batch]) -> tuple[float, float]:
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.data.device)
        count = 0
        for inputs, targets in batches:
            total += torch.stack(loss_and_hits(self.logits(inputs), targets)).double()
            count += targets.numel()
        loss, accuracy = (total / count).tolist()
        return float(loss), float(accuracy)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the network's outputs, in the precision and memory format of training."""
        bf16 = self.setup.precision == "bf16"
        with torch.autocast(self.data.device.type, dtype=torch.bfloat16, enabled=bf16):
            outputs: Tensor = self.model(laid_out(inputs, self.setup.memory_format))
        return outputs

    def _norm_inputs(self) -> Iterator[Tensor]:
        """Training inputs, augmented as in training, the same ones every time."""
        config = self.setup.config
        batches = self.data.train_batches(config.seed, 0, config.trainer.batch_size)
        return (inputs for inputs, _ in itertools.islice(batches, _NORM_BATCHES))


def laid_out(inputs: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Return images [B, C, H, W] in ``memory_format``; tokens have none and stay."""
    if inputs.ndim != 4 or not inputs.is_floating_point():
        return inputs
    return inputs.to(memory_format=memory_format)


class Measures(Protocol):
    """The callback that conf names by ``trainer.curvature._target_``."""

    @property
    def batch(self) -> int:
        """How many training samples it wants."""

    def __call__(
        self, model: nn.Module, batch: tuple[Tensor, Tensor], folder: Path, step: int, epoch: float
    ) -> dict[str, float]:
        """Measure, keep the result in the run folder, and return what is to be logged."""


class SelfMeasurement:
    """Calls the callback at the epochs asked for.

    Args:
        callback: does the work.
        every: epochs from one measurement to the next, from epoch 0 on, the last epoch included;
            or exactly these epochs.
        data: the first samples of its training split, unaugmented, are measured on.
        weights: those that the run is judged by.
        epochs: of the whole run.
    """

    def __init__(
        self,
        callback: Measures,
        every: Epochs,
        *,
        data: Data,
        weights: EvaluationWeights,
        folder: Path,
        epochs: int,
    ) -> None:
        self.callback, self.every, self.epochs = callback, every, epochs
        self.data, self.weights, self.folder = data, weights, folder

    def due(self, epoch: int) -> bool:
        """Whether to measure after ``epoch`` epochs."""
        if isinstance(self.every, int):
            return epoch % self.every == 0 or epoch == self.epochs
        return epoch in self.every

    def __call__(self, model: nn.Module, step: int, epoch: int) -> dict[str, float]:
        """Return what the callback wants logged."""
        size = min(self.callback.batch, self.data.size("train"))
        batch = next(self.data.eval_batches("train", size))
        with self.weights.lent(step):
            return self.callback(model, batch, self.folder, step, float(epoch))


def self_measurement(
    config: TrainerConfig, data: Data, weights: EvaluationWeights, folder: Path
) -> SelfMeasurement | None:
    """Return what the trainer's config asks for; None where it asks for nothing."""
    if config.curvature_every is None:
        return None
    assert config.curvature is not None
    return SelfMeasurement(
        instantiate(config.curvature),
        config.curvature_every,
        data=data,
        weights=weights,
        folder=folder,
        epochs=config.epochs,
    )
