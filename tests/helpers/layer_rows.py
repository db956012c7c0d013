"""Inputs and errors of layers, sample by sample and position by position, without unfolding."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Rows = dict[str, tuple[Tensor, Tensor]]


class Recording:
    """What passed through the ``modules`` last, forward and back."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}

    def rows(self, homogeneous: bool = False) -> Rows:
        """Inputs ``[N, T, n]`` and errors ``[N, T, m]`` of each, as backward gave them.

        Row (c, i, j) of a patch is what a convolution with a kernel that is 1 at (c, i, j) and 0
        elsewhere gives. ``homogeneous`` appends a 1 to the inputs of layers with a bias.
        """
        found: Rows = {}
        for name, (given, output) in self.seen.items():
            module: Any = self.modules[name]
            assert output.grad is not None
            if isinstance(module, nn.Linear):
                a = given.reshape(len(given), -1, given.shape[-1])
                delta = output.grad.reshape(len(given), -1, output.shape[-1])
            else:
                kernels = torch.eye(module.weight[0].numel()).reshape(-1, *module.weight.shape[1:])
                probe = copy.deepcopy(module)
                probe._forward_hooks.clear()
                probe.weight, probe.bias = nn.Parameter(kernels.to(given)), None
                a, delta = probe(given).detach().flatten(2).mT, output.grad.flatten(2).mT
            if homogeneous and module.bias is not None:
                a = torch.cat([a, torch.ones_like(a[..., :1])], -1)
            found[name] = a, delta
        return found


@contextmanager
def recorded(modules: Mapping[str, nn.Module]) -> Iterator[Recording]:
    """Record what passes through the modules."""
    recording = Recording(modules)

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
            kept = output.clone()  # what follows works on another copy, maybe in place
            kept.retain_grad()
            recording.seen[name] = args[0].detach().clone(), kept
            return kept.clone()

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    yield recording
    for handle in handles:
        handle.remove()
