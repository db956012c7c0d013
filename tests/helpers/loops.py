"""What the tests of the training loop share besides the fixtures that build one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.loop import Loop

SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
MOMENTUM = {**SGD, "momentum": 0.9, "nesterov": True}
STEPS, EPOCHS = 4, 2  # batches an epoch; 35 images make 4 batches of 8 and a rest
TOTAL = STEPS * EPOCHS
Build = Any  # conftest's LoopRig
Same = Callable[..., None]


def ran(loop: Loop) -> Loop:
    """Run at once after building: the next loop that is built seeds the noise anew."""
    loop.run()
    return loop


def history_file(loop: Loop) -> bytes:
    return (loop.folder.path / "history.jsonl").read_bytes()
