"""Of what kind a failure is: what a table of failures says beside the error itself."""

from __future__ import annotations

import torch

from bench.run import Kind

_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def kind_of(error: BaseException) -> Kind:
    """Return the kind of an error that ended a run: memory has many names, the rest is one."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out of memory"
    text = str(error).lower()
    if isinstance(error, RuntimeError | OSError) and any(name in text for name in _MEMORY):
        return "out of memory"
    return "exception"


def reason_of(error: BaseException) -> str:
    """Return the last line of the error's traceback, cut at the end of its first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
