"""A run that measures its own curvature as it trains: when, on which samples, at which weights."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from bench.build import instantiate
from bench.config import Epochs, TrainerConfig
from bench.data.base import Data
from bench.training.evaluation_weights import EvaluationWeights


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
    return SelfMeasurement(
        instantiate(config.curvature),
        config.curvature_every,
        data=data,
        weights=weights,
        folder=folder,
        epochs=config.epochs,
    )
