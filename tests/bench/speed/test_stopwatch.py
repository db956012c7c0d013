"""Timing side by side.

The lines before a benchmark's table.
"""

from __future__ import annotations

import re
import time

import pytest
import torch

from bench.speed.stopwatch import Timing, progress, side_by_side

CPU = torch.device("cpu")


def test_rounds_alternate_and_calls_are_averaged() -> None:
    order: list[str] = []
    works = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    timings = side_by_side(works, CPU, rounds=3, calls=2)
    assert order == ["a", "a", "b", "b"] * 3
    assert all(len(timing.rounds) == 3 for timing in timings.values())


def test_times_are_milliseconds_of_one_call() -> None:
    timing = side_by_side({"sleep": lambda: time.sleep(0.02)}, CPU, rounds=2, calls=2)["sleep"]
    assert 20 <= timing.low <= timing.median <= timing.high < 200


def test_quartiles_stay_within_the_times() -> None:
    timing = side_by_side({"work": lambda: None}, CPU, rounds=2, calls=1)["work"]
    assert min(timing.rounds) <= timing.low <= timing.high <= max(timing.rounds)


def test_the_ratio_is_paired_by_round() -> None:
    # The machine slowed down in the last two rounds: the ratio of medians would be 4.
    one = Timing(8.0, 0, 0, (2.0, 8.0, 8.0))
    two = Timing(2.0, 0, 0, (1.0, 2.0, 4.0))
    assert one.ratio_to(two) == 2.0
    assert one.ratio_to(one) == 1.0
    with pytest.raises(ValueError, match="shorter"):
        one.ratio_to(Timing(1.0, 0, 0, (1.0,)))


def test_a_line_goes_to_standard_error_with_the_seconds_so_far(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress("muon: ready")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"\[ *\d+ s\] muon: ready\n", err)
