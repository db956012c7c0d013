"""How good a network is: loss and accuracy over the validation and test splits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bench.data.base import Data, SplitName
from bench.training.evaluation_weights import EvaluationWeights
from bench.training.objective import loss_and_hits

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
