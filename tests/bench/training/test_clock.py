"""The split clock."""

from __future__ import annotations

import time

import pytest

from bench.training.clock import PHASES, Clock


def test_every_phase_begins_at_zero() -> None:
    assert PHASES == ("data", "step", "evaluation", "compile", "checkpoint", "curvature")
    assert Clock().seconds == dict.fromkeys(PHASES, 0.0)


@pytest.mark.parametrize("phase", PHASES)
def test_a_block_counts_to_its_phase_alone(phase: str) -> None:
    clock = Clock()
    begin = time.perf_counter()
    with clock(phase):  # type: ignore[arg-type]
        time.sleep(0.01)
    whole = time.perf_counter() - begin
    assert 0.01 <= clock.seconds[phase] <= whole
    assert all(clock.seconds[other] == 0.0 for other in PHASES if other != phase)


def test_blocks_add_up() -> None:
    clock = Clock()
    for _ in range(3):
        with clock("step"):
            time.sleep(0.004)
    assert clock.seconds["step"] >= 0.012


def test_a_block_that_raises_counts_too() -> None:
    clock = Clock()
    with pytest.raises(KeyError), clock("data"):
        time.sleep(0.005)
        raise KeyError
    assert clock.seconds["data"] >= 0.005


def test_training_is_data_and_steps() -> None:
    clock = Clock()
    clock.load_state_dict(
        {"data": 1.0, "step": 2.0, "evaluation": 4.0, "compile": 8.0, "checkpoint": 16.0}
    )
    assert clock.training == 3.0


def test_a_restored_clock_goes_on_from_where_it_was() -> None:
    first = Clock()
    first.load_state_dict(dict.fromkeys(PHASES, 100.0))
    state = first.state_dict()
    second = Clock()
    second.load_state_dict(state)
    with second("evaluation"):
        time.sleep(0.002)
    assert second.seconds["evaluation"] > 100.0
    assert second.seconds["step"] == 100.0
    assert first.seconds == dict.fromkeys(PHASES, 100.0)


def test_a_saved_state_does_not_run_on_with_the_clock() -> None:
    clock = Clock()
    state = clock.state_dict()
    with clock("data"):
        time.sleep(0.001)
    assert state == dict.fromkeys(PHASES, 0.0)
