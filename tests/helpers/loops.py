"""What the tests of the training loop share besides the fixtures that build one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench import config
from bench.loop import Loop
from bench.setup import Setup

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


@functools.cache
def _run() -> config.RunConfig:
    return config.load(["tracker=none", "target=null"])


def setup_of(trainer: dict[str, Any], seed: int = 0, **changes: Any) -> Setup:
    """The setup of a run with this trainer and seed; ``changes`` are of the setup itself."""
    own = {"trainer": config.TrainerConfig(**trainer), "seed": seed}
    return replace(Setup.of(_run().model_copy(update=own)), **changes)


def history_file(loop: Loop) -> bytes:
    return (loop.folder.path / "history.jsonl").read_bytes()
