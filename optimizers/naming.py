"""Names of layers and parameters as the network's author gave them, whatever wraps the network.

``torch.compile(model)`` puts ``_orig_mod.`` before every name, and DistributedDataParallel
``module.``; files of measured exponents, patterns and checkpoints know neither.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

_COMPILED = "_orig_mod"


def plain_name(name: str) -> str:
    """Return ``name`` without what torch.compile put into it, at the front or further in."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """``model.named_modules()`` of the network inside its wrappers."""
    for name, module in _unwrapped(model).named_modules():
        if _COMPILED not in module._modules:
            yield plain_name(name), module


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """``model.named_parameters()`` of the network inside its wrappers."""
    for name, parameter in _unwrapped(model).named_parameters():
        yield plain_name(name), parameter


def _unwrapped(model: nn.Module) -> nn.Module:
    if isinstance(model, DataParallel | DistributedDataParallel):
        return _unwrapped(model.get_submodule("module"))
    inner = model._modules.get(_COMPILED)
    return model if inner is None else _unwrapped(inner)
