"""What is used of torch without being documented; each with a test of its own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_compiler() -> Iterator[None]:
    """Let optimizers be built without torch importing its compiler, which takes two seconds.

    ``add_param_group`` is wrapped so that it is never compiled, and its first call imports the
    compiler to say so. While this lasts, all optimizers of the process have the method itself.
    """
    wrapped = torch.optim.Optimizer.add_param_group
    torch.optim.Optimizer.add_param_group = inspect.unwrap(wrapped)  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.optim.Optimizer.add_param_group = wrapped  # type: ignore[method-assign]


@contextmanager
def compiling_anew(times: int) -> Iterator[None]:
    """Let the same code be compiled for so many different arguments; torch gives up after 8."""
    from torch._dynamo import config  # it takes seconds to import

    with config.patch(recompile_limit=times):
        yield
