"""What the optimizers use of torch's inside, and torch may change: works with torch 2.11 to 2.13.

tests/optimizers/test_torch_private.py fails with a version where it does not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import CodeType
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd as ConvNd
from torch.nn.parallel import DataParallel, DistributedDataParallel

__all__ = ["ConvNd", "named_modules", "named_parameters", "plain_name", "with_own_code"]

Step: TypeAlias = Callable[[list[Tensor], list[Tensor], list[Tensor], float | Tensor], None]

# -- names of layers and parameters as the network's author gave them ------------------------------
#
# ``torch.compile(model)`` puts ``_orig_mod.`` before every name, and DistributedDataParallel
# ``module.``; files of measured exponents, patterns and checkpoints know neither.

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


# -- any number of compiled functions --------------------------------------------------------------


def with_own_code(step: Step, key: str) -> Step:
    """Give ``step`` a code object that it shares with the steps of the same ``key`` alone.

    torch.compile keeps what it compiled by code object and gives up after 8 versions of one: the
    ninth optimizer of a process would fail, if all of them had their code in common.
    """

    def kernel(
        params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], lr: float | Tensor
    ) -> None:
        step(params, grads, buffers, lr)

    kernel.__code__ = _copied(kernel.__code__, key)
    return kernel


@functools.lru_cache(maxsize=256)
def _copied(code: CodeType, key: str) -> CodeType:  # noqa: ARG001  (one copy for each)
    return code.replace()
