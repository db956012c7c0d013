"""An optimizer that fails on one rank alone, for tests of runs on several devices."""

from __future__ import annotations

import torch
import torch.distributed as dist


class FailsOnRankOne(torch.optim.SGD):
    """SGD whose second step runs out of memory on rank 1."""

    steps = 0

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Step, or fail."""
        assert closure is None
        self.steps += 1
        if self.steps == 2 and dist.get_rank() == 1:
            raise RuntimeError("CUDA error: out of memory\nof this device")
        super().step()
