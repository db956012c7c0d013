"""The state of a training, to be put back after trying something out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Snapshot:
    """Weights, buffers, optimizer state and random state, to be put back into the same memory."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = [_own(group) for group in optimizer.param_groups]
        self._states = {param: dict(state) for param, state in optimizer.state.items()}
        tensors = [*model.parameters(), *model.buffers()]
        tensors += _tensors([self._groups, list(self._states.values())])
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._random = torch.get_rng_state()
        cuda = [tensor.device for tensor in tensors if tensor.is_cuda][:1]
        self._random_cuda = [(device, torch.cuda.get_rng_state(device)) for device in cuda]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back but learning rates; gradients are dropped."""
        for group, kept in zip(self._optimizer.param_groups, self._groups, strict=True):
            group.update(kept)
        for param in set(self._optimizer.state) - set(self._states):
            del self._optimizer.state[param]
        for param, state in self._states.items():
            self._optimizer.state[param].clear()
            self._optimizer.state[param].update(state)
        for tensor, copy in self._tensors:
            tensor.copy_(copy)
        self._optimizer.zero_grad(set_to_none=True)
        torch.set_rng_state(self._random)
        for device, random in self._random_cuda:
            torch.cuda.set_rng_state(random, device)


def _own(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "lr")}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
