"""What a user's own module brings to a sweep: an optimizer that is slow, or fails on request.

Copied into the working directory of a test as ``parts.py``.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch


class Slow(torch.optim.SGD):
    """SGD that sleeps a little in each step, unless NO_SLEEP is set."""

    seconds = 0.06

    def step(self, closure: Any = None) -> Any:
        if "NO_SLEEP" not in os.environ:
            time.sleep(self.seconds)
        return super().step(closure)


class Fragile(torch.optim.SGD):
    """SGD that fails at three learning rates, until the file ``mended`` exists."""

    def step(self, closure: Any = None) -> Any:
        rate = self.param_groups[0]["initial_lr"]
        if not Path("mended").exists():
            if rate == 0.01:
                raise ArithmeticError("no such step")
            if rate == 0.02:
                torch.empty(2**60)
            if rate == 0.03:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().step(closure)
