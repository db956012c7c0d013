"""The weights by which a run is judged, where its optimizer trains at others (Schedule-Free).

Such an optimizer has ``eval()`` and ``train()``, which move the network's weights from the point
where gradients are taken to the average that is meant to be used, and back. Nothing here knows
which optimizer that is; for all others the two are the same and nothing is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
