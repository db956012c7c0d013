"""A job of several commands: each is printed before it runs, and the first failure ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence

from bench.errors import RunsFailedError


def python() -> str:
    """Return the running interpreter as a person would type it."""
    return os.path.relpath(sys.executable)


def carry_out(steps: Iterable[Sequence[str]], what: str) -> None:
    """Run each step as ``python -m <step>``.

    Raises:
        RunsFailedError: a step failed; its own output says why.
    """
    for step in steps:
        print(f"\n$ {python()} -m {' '.join(step)}", flush=True)
        status = subprocess.run([sys.executable, "-m", *step], check=False).returncode
        if status != 0:
            raise RunsFailedError(f"{what} stopped: {step[0]} ended with status {status}")
