"""Learning-rate schedules as factors of the optimizer's own learning rates.

Each returns ``factor(step)`` for 0 <= step < total_steps; ``warmup``, ``decay`` are fractions of
the whole run, so that a schedule means the same at any number of epochs. Warm-up is linear and
ends at factor 1; step 0 never has factor 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Factor = Callable[[int], float]


def constant(total_steps: int, warmup: float = 0.0) -> Factor:
    """Warm up, then stay at 1."""
    return _shaped(total_steps, warmup, lambda _: 1.0)


def linear(total_steps: int, warmup: float = 0.0, final: float = 0.0) -> Factor:
    """Warm up, then fall linearly to ``final``."""
    _check_fraction("final", final)
    return _shaped(total_steps, warmup, lambda done: 1.0 - (1.0 - final) * done)


def cosine(total_steps: int, warmup: float = 0.0, final: float = 0.0) -> Factor:
    """Warm up, then half a cosine down to ``final`` (Loshchilov and Hutter, 2017, Eq. 5)."""
    _check_fraction("final", final)
    return _shaped(
        total_steps,
        warmup,
        lambda done: final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done)),
    )


def warmup_stable_decay(
    total_steps: int, warmup: float = 0.05, decay: float = 0.3, final: float = 0.0
) -> Factor:
    """Warm up, stay at 1, then fall linearly to ``final`` over the last ``decay`` of the run.

    Raises:
        ValueError: warm-up and decay do not fit into one run.
    """
    _check_fraction("decay", decay)
    _check_fraction("final", final)
    if warmup + decay > 1.0:
        raise ValueError(f"warmup + decay is {warmup + decay:g}; together they must be at most 1")
    stable = (1.0 - decay - warmup) / (1.0 - warmup) if warmup < 1.0 else 0.0

    def shape(done: float) -> float:
        return 1.0 if done <= stable else 1.0 - (1.0 - final) * (done - stable) / (1.0 - stable)

    return _shaped(total_steps, warmup, shape)


def _shaped(total_steps: int, warmup: float, shape: Callable[[float], float]) -> Factor:
    """Join a linear warm-up with ``shape(done)``, done in [0, 1] over the steps that follow."""
    _check_fraction("warmup", warmup)
    warmup_steps = round(warmup * total_steps)
    rest = max(1, total_steps - warmup_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return shape(min(1.0, (step - warmup_steps) / rest))

    return factor


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value:g}; it is a fraction of the run, from 0 to 1")
