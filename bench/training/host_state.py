"""What an optimizer keeps on the host, and whether a step changed it.

A CUDA graph repeats kernels, not Python: an optimizer that counts its steps in Python, draws random
numbers on the CPU or replaces its state tensors would silently do something else in a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def fingerprint(optimizer: torch.optim.Optimizer, device: torch.device) -> dict[str, Any]:
    """Return, by path, what an optimizer keeps on the host, and where on ``device`` the rest lies.

    Paths read as Python does: ``.param_groups[0]['steps']``. Learning rates are left out: they are
    inputs of a step.
    """
    return dict(_leaves(optimizer, "", device.type, {id(optimizer)}))


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Say what a step changed between two fingerprints, in a few words; None for nothing."""
    for path in [*before, *(path for path in after if path not in before)]:
        if path not in before or path not in after:
            return f"{path} appears or disappears"
        old, new = before[path], after[path]
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            if not torch.equal(old, new):
                return f"{path} changes on the host"
        elif old != new:
            moved = isinstance(old, tuple) and isinstance(new, tuple)
            return f"{path} is replaced by a new tensor" if moved else f"{path} changes on the host"
    return None


def _leaves(value: Any, path: str, device: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    for name, item in _parts(value):
        where = path + name
        if isinstance(item, Tensor):
            held = item.device.type == device
            yield where, _place(item) if held else item.detach().clone()
        elif isinstance(item, torch.Generator):
            yield where, item.get_state()
        elif isinstance(item, _PLAIN):
            yield where, item
        elif id(item) not in seen:
            seen.add(id(item))
            yield from _leaves(item, where, device, seen)


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The items of a container, or the attributes of an object, each with its way of access."""
    if isinstance(value, Mapping):
        for number, (key, item) in enumerate(value.items()):
            if key != "lr":  # an input
                yield f"[{key!r}]" if isinstance(key, str) else f"[{number}]", item
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield f"[{number}]", item
    elif isinstance(value, nn.Module | type) or callable(value):
        return
    elif hasattr(value, "__dict__"):
        for name, item in vars(value).items():
            yield f".{name}", item
