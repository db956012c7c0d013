"""How good a network is: loss and accuracy over the validation and test splits.

The weights by which a run is judged, where its optimizer trains at others (Schedule-Free).

Such an optimizer has ``eval()`` and ``train()``, which move the network's weights from the point
where gradients are taken to the average that is meant to be used, and back. Nothing here knows
which optimizer that is; for all others the two are the same and nothing is done.

A run that measures its own curvature as it trains: when, on which samples, at which weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.config import Epochs, TrainerConfig
from bench.data.base import Data, SplitName
from bench.hydra_private import instantiate
from bench.training.losses import loss_and_hits

Weights = dict[str, Tensor]


class EvaluationWeights:
    """Finds a network's evaluation weights and lends them to it, leaving training as it was.

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
        self._found: tuple[int, Weights] | None = None
        if self._train is not None and self.differ:
            self._train()  # some refuse to step before this

    @torch.no_grad()
    def at(self, step: int) -> Weights:
        """Return the evaluation weights and buffers after ``step``, found once for each step."""
        if not self.differ or self._eval is None or self._train is None:
            return self.model.state_dict()
        if self._found is None or self._found[0] != step:
            kept = _copied(self.model)
            try:
                self._eval()
                self._measure_batch_norms()
                self._found = (step, _copied(self.model))
            finally:
                self._train()
                self.model.load_state_dict(kept)
        return self._found[1]

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
        model: on the data's device.
        optimizer: says at which weights it is to be evaluated.
        batch_size: samples a batch of evaluation.
        norm_batches: (seed, samples a batch) of the training batches from which BatchNorm is
            measured anew where the evaluation weights are others.
        precision: "float32", or "bf16" for autocast to bfloat16.

    Attributes:
        weights: the evaluation weights.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        data: Data,
        batch_size: int,
        norm_batches: tuple[int, int],
        precision: str,
        memory_format: torch.memory_format,
    ) -> None:
        self.model, self.data, self.batch_size = model, data, batch_size
        self.device, self.memory_format = data.device, memory_format
        self._bf16, self._norm_batches = precision == "bf16", norm_batches
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

    @torch.no_grad()
    def split(self, name: SplitName) -> tuple[float, float]:
        """Return mean cross-entropy (without smoothing) and accuracy, over a split's targets."""
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        count = 0
        for inputs, targets in self.data.eval_batches(name, self.batch_size):
            total += torch.stack(loss_and_hits(self.logits(inputs), targets)).double()
            count += targets.numel()
        loss, accuracy = (total / count).tolist()
        return float(loss), float(accuracy)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the network's outputs, in the precision and memory format of training."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            outputs: Tensor = self.model(laid_out(inputs, self.memory_format))
        return outputs

    def _norm_inputs(self) -> Iterator[Tensor]:
        """Training inputs, augmented as in training, the same ones every time."""
        seed, batch_size = self._norm_batches
        batches = self.data.train_batches(seed, 0, batch_size)
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
