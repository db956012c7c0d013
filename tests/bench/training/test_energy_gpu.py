"""Energy of a real GPU: the meter beside power times seconds, its period, and a run's joules."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
import torch
from loops import Build

from bench.training.energy import Counter, Energy, NoAnswerError, Sampled, nvml_meter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def gpu_meter() -> Any:
    """The meter of the first GPU; a machine on which NVML says nothing is no failure of ours."""
    try:
        return nvml_meter(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    except NoAnswerError as error:
        pytest.skip(f"NVML does not answer: {error}")


@pytest.mark.parametrize("sampled", [False, True])
def test_joules_of_a_gpu_are_its_power_times_seconds(sampled: bool) -> None:
    """Three seconds of products, beside the power read in the meantime."""
    meter, device = gpu_meter(), torch.device("cuda", 0)
    pynvml = pytest.importorskip("pynvml")
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid.encode())

    def power() -> float:
        return pynvml.nvmlDeviceGetPowerUsage(handle) / 1000

    left = torch.randn(4096, 4096, device=device)

    def work(seconds: float) -> list[float]:
        watts, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(20):
                left @ left
            torch.cuda.synchronize(device)
            watts.append(power())
        return watts

    work(2.0)  # a reading is the mean of up to a second
    measured = Energy(
        Sampled(power) if sampled else meter, wait=lambda: torch.cuda.synchronize(device)
    )
    start = time.perf_counter()
    measured.training(True)
    watts = work(3.0)
    measured.training(False)
    expected = sum(watts) / len(watts) * (time.perf_counter() - start)
    assert measured.total() == pytest.approx(expected, rel=0.3)
    print(f"{measured.total():.0f} J; power times seconds {expected:.0f} J")


def test_the_counter_is_updated_at_least_as_often_as_its_lag_says() -> None:
    meter = gpu_meter()
    if not isinstance(meter, Counter):
        pytest.skip("this device has no energy counter")
    changes, last, end = [], meter._read(), time.perf_counter() + 2.0
    while time.perf_counter() < end:
        now = meter._read()
        if now != last:
            changes.append(time.perf_counter())
            last = now
    gaps = sorted(after - before for before, after in itertools.pairwise(changes))
    assert gaps[len(gaps) // 2] <= meter.lag
    print(f"updated every {1000 * gaps[len(gaps) // 2]:.0f} ms, at most {1000 * gaps[-1]:.0f} ms")


def test_a_run_on_a_gpu_has_its_joules(build: Build) -> None:
    meter = gpu_meter()
    loop = build(data=build.images().to("cuda"))
    loop.run()
    found = loop.summary("done")
    assert found["energy/method"] == meter.method
    assert 0 <= found["energy/error_joules"] <= found["energy/joules"] == loop.history[-1]["joules"]
