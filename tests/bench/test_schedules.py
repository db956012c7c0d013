"""Learning-rate factors: their shape as properties, and torch's schedulers where they coincide."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from bench.schedules import constant, cosine, linear, warmup_stable_decay

FRACTION = st.floats(0.0, 1.0)
STEPS = st.integers(1, 300)
SCHEDULES: dict[str, Callable[..., Any]] = {
    "constant": lambda total, warmup, final: constant(total, warmup),
    "linear": linear,
    "cosine": cosine,
    "wsd": lambda total, warmup, final: warmup_stable_decay(
        total, warmup, decay=(1.0 - warmup) / 2, final=final
    ),
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
properties = settings(max_examples=40, deadline=None)


def factors(name: str, total: int, warmup: float, final: float) -> list[float]:
    factor = SCHEDULES[name](total, warmup, final)
    return [factor(step) for step in range(total)]


def torch_rates(scheduler: Callable[..., Any], total: int, **options: Any) -> list[float]:
    """The learning rates of a torch scheduler over ``total`` steps, from 1.0."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, found = scheduler(optimizer, **options), []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@every_schedule
@properties
@given(total=STEPS, warmup=FRACTION, final=FRACTION)
def test_factors_are_fractions(name: str, total: int, warmup: float, final: float) -> None:
    found = factors(name, total, warmup, final)
    warming = round(warmup * total)
    assert all(0.0 <= value <= 1.0 for value in found)
    # After the warm-up, never below `final` (but for the last digits of a subtraction).
    assert all(value >= final - 1e-12 for value in found[warming:])


@every_schedule
@properties
@given(total=STEPS, warmup=FRACTION, final=FRACTION)
def test_warmup_is_linear_and_ends_at_one(
    name: str, total: int, warmup: float, final: float
) -> None:
    found = factors(name, total, warmup, final)
    warming = round(warmup * total)
    assert found[:warming] == [(step + 1) / warming for step in range(warming)]
    assert found[0] > 0.0  # a first step of rate zero is a step lost
    if warming > 0:
        assert found[warming - 1] == 1.0
    if warming < total:
        assert found[warming] == pytest.approx(1.0)


@every_schedule
@properties
@given(total=STEPS, warmup=FRACTION, final=FRACTION)
def test_after_the_warmup_nothing_rises(name: str, total: int, warmup: float, final: float) -> None:
    rest = factors(name, total, warmup, final)[round(warmup * total) :]
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(rest))


@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_is_torchs(total: int, final: float) -> None:
    factor = cosine(total, final=final)
    expected = torch_rates(lr_scheduler.CosineAnnealingLR, total, T_max=total, eta_min=final)
    assert [factor(step) for step in range(total)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("final", [0.0, 0.25])
def test_linear_is_torchs(total: int, final: float) -> None:
    factor = linear(total, final=final)
    expected = torch_rates(
        lr_scheduler.LinearLR, total, start_factor=1.0, end_factor=final, total_iters=total
    )
    assert [factor(step) for step in range(total)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("warming", [2, 5, 40])
def test_warmup_is_torchs(warming: int) -> None:
    factor = constant(40, warmup=warming / 40)
    expected = torch_rates(
        lr_scheduler.LinearLR, 40, start_factor=1 / warming, total_iters=warming - 1
    )
    assert [factor(step) for step in range(40)] == pytest.approx(expected, abs=1e-9)


def test_warmup_and_cosine_are_torchs_sequence() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    warm = lr_scheduler.LinearLR(optimizer, start_factor=1 / 10, total_iters=9)
    fall = lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
    both = lr_scheduler.SequentialLR(optimizer, [warm, fall], milestones=[10])
    factor = cosine(100, warmup=0.1)
    for step in range(100):
        assert factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9), step
        optimizer.step()
        both.step()


@properties
@given(total=st.integers(2, 300), final=FRACTION)
def test_cosine_ends_one_step_before_its_endpoint(total: int, final: float) -> None:
    factor = cosine(total, final=final)
    assert factor(total) == pytest.approx(final)
    almost = final + (1 - final) * math.sin(math.pi / (2 * total)) ** 2
    assert factor(total - 1) == pytest.approx(almost, abs=1e-12)


@properties
@given(total=STEPS, decay=FRACTION, final=FRACTION, warmup=st.floats(0.0, 0.5))
def test_stable_means_stable(total: int, decay: float, final: float, warmup: float) -> None:
    decay = min(decay, 1.0 - warmup)
    factor = warmup_stable_decay(total, warmup, decay, final)
    warming = round(warmup * total)
    # The warm-up is rounded to whole steps; what is left is shared in the same proportion.
    stable = (1 - decay - warmup) / (1 - warmup) * (total - warming)
    for step in range(warming, total):
        if step - warming < stable - 1e-6:
            assert factor(step) == 1.0
        elif step - warming > stable + 1e-6:
            assert factor(step) < 1.0 or final > 1 - 1e-6
    if decay > 1e-9:
        assert factor(total) == pytest.approx(final)


def test_wsd_by_hand() -> None:
    factor = warmup_stable_decay(10, warmup=0.2, decay=0.4, final=0.2)
    expected = [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4]
    assert [factor(step) for step in range(10)] == pytest.approx(expected)


def test_linear_by_hand() -> None:
    factor = linear(6, warmup=1 / 3, final=0.5)
    expected = [0.5, 1.0, 1.0, 0.875, 0.75, 0.625]
    assert [factor(step) for step in range(6)] == pytest.approx(expected)


def test_a_schedule_means_the_same_at_any_length() -> None:
    short, long = cosine(10, warmup=0.2, final=0.1), cosine(1000, warmup=0.2, final=0.1)
    assert [short(step) for step in range(2, 10)] == pytest.approx(
        [long(100 * step) for step in range(2, 10)]
    )


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
@pytest.mark.parametrize(
    "build",
    [
        lambda v: constant(10, warmup=v),
        lambda v: linear(10, warmup=v),
        lambda v: linear(10, final=v),
        lambda v: cosine(10, warmup=v),
        lambda v: cosine(10, final=v),
        lambda v: warmup_stable_decay(10, warmup=v, decay=0.0),
        lambda v: warmup_stable_decay(10, decay=v),
        lambda v: warmup_stable_decay(10, final=v),
    ],
)
def test_what_is_no_fraction_is_refused(build: Callable[[float], Any], value: float) -> None:
    with pytest.raises(ValueError, match=r"warmup|final|decay"):
        build(value)


def test_warmup_and_decay_must_fit_into_the_run() -> None:
    with pytest.raises(ValueError, match=r"warmup \+ decay is 1\.1; together they must be at most"):
        warmup_stable_decay(10, warmup=0.5, decay=0.6)
    assert warmup_stable_decay(10, warmup=0.5, decay=0.5)(4) == 1.0
