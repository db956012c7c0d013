"""The row's own arithmetic, and what is said of a step."""

from __future__ import annotations

import pytest

from bench.speed.epoch_table import Row, step_lines
from bench.speed.our_loop import Pace
from bench.speed.stopwatch import Epoch
from bench.training.accounting import Cost


def row(seconds: list[float], baseline: list[float], **more: object) -> Row:
    epochs = tuple(Epoch(value, 10, value / 4) for value in seconds)
    return Row("x", epochs, tuple(baseline), 9.0, 100, 2e6, 1e12, None, **more)  # type: ignore[arg-type]


def test_medians_and_paired_ratios() -> None:
    found = row([3.0, 1.0, 8.0], [3.0, 0.5, 2.0])
    assert found.seconds == 3.0
    assert found.waiting == 0.75
    assert found.ratios == (1.0, 2.0, 4.0)
    assert found.ratio == 2.0  # and not 3 / 2, of the medians
    assert found.samples_per_second == pytest.approx(100 / 3)
    assert found.tflops == pytest.approx(2e8 / 3 / 1e12)
    assert found.utilisation == pytest.approx(2e8 / 3 / 1e12)
    assert found.as_json()["cost"] is None


@pytest.mark.parametrize(("host", "who"), [(0.9, "the device"), (6.1, "the host")])
def test_what_a_step_consists_of(host: float, who: str) -> None:
    ours = row([1.0], [1.0], cost=Cost(2e6, 3e9, 0.01), pace=Pace(host, 6.0), preparation=15.81)
    (line,) = step_lines([ours, row([2.0], [1.0])], steps_per_epoch=10)
    assert line == (
        "x: a step 100.00 ms; the optimizer alone 10.00 ms (10%), 3.0 GFLOP; "
        f"host {host:.2f} ms, device 6.00 ms: {who} is the bottleneck; "
        "compilation and warm-up 15.8 s"
    )


def test_steps_scale_to_an_epoch() -> None:
    assert Epoch(0.5, 2, 0.1).scaled(7) == pytest.approx((0.5 * 7 / 2, 7, 0.1 * 7 / 2))
