"""A run's self-measurement that takes its time and says which process makes it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from analysis.callback import CurvatureCallback


@dataclass(frozen=True)
class WatchedCallback(CurvatureCallback):
    """Sleeps ``seconds`` first, and leaves an empty file for each process and step."""

    seconds: float = 0.0

    def __call__(
        self, model: nn.Module, batch: tuple[Tensor, Tensor], folder: Path, step: int, epoch: float
    ) -> dict[str, float]:
        """Measure."""
        time.sleep(self.seconds)
        (folder / f"measured-{step}-{os.getpid()}").touch()
        return super().__call__(model, batch, folder, step, epoch)
