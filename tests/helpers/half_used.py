"""A network whose layer ``unused`` is called but has no part in what it gives."""

from __future__ import annotations

from torch import Tensor, nn


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        return self.used(x)
