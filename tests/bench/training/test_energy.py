"""Energy: sections of a counter and of sampled power, what is not known, attempts, ranks, NVML."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from loops import EPOCHS, STEPS, Build, setup_of

from bench import loop as loops_module
from bench.launch.pool import PACKED
from bench.training import energy, parallel
from bench.training.energy import Counter, Energy, NoAnswerError, Sampled, energy_of, nvml_meter
from bench.training.parallel import Team

WATTS = 200.0
NAMES = {"energy/joules", "energy/joules_per_epoch", "energy/error_joules", "energy/method"}


def scripted(*readings: float | Exception) -> Callable[[], float]:
    """Return what reads these, one after the other; an exception is raised."""
    left: Iterator[float | Exception] = iter(readings)

    def read() -> float:
        reading = next(left)
        if isinstance(reading, Exception):
            raise reading
        return reading

    return read


def steady() -> Counter:
    """A device that always draws WATTS."""
    return Counter(lambda: WATTS * time.perf_counter())


def section(followed: Energy) -> None:
    followed.training(True)
    followed.training(False)


# -- sections -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=20))
def test_what_is_used_outside_of_sections_does_not_count(steps: list[tuple[float, float]]) -> None:
    readings, at = [], 0.0
    for outside, inside in steps:
        readings += [at + outside, at + outside + inside]
        at = readings[-1]
    followed = Energy(Counter(scripted(*readings)))
    for _ in steps:
        section(followed)
    assert followed.total() == pytest.approx(sum(inside for _, inside in steps), abs=1e-6)


def test_a_section_lasts_as_long_as_training_goes_on() -> None:
    followed = Energy(Counter(scripted(10.0, 17.0)))
    for on in (False, True, True, True, False, False):
        followed.training(on)
    assert followed.total() == 7.0


def test_the_device_is_waited_for_where_a_section_ends() -> None:
    waits: list[None] = []
    followed = Energy(Counter(scripted(1.0, 2.0)), wait=lambda: waits.append(None))
    followed.training(True)
    assert not waits
    followed.training(False)
    assert len(waits) == 1


@pytest.mark.parametrize(
    "readings",
    [
        (10.0, 3.0),  # wrapped, or the driver was loaded anew
        (NoAnswerError("no permission"),),
        (10.0, NoAnswerError("the GPU is lost")),
        (10.0, 11.0, NoAnswerError("the GPU is lost")),
    ],
)
def test_from_the_first_doubt_on_nothing_is_known(readings: tuple[Any, ...]) -> None:
    followed = Energy(Counter(scripted(*readings)))
    for _ in range(3):  # asks no more: the script has no more readings
        section(followed)
    assert followed.total() is None
    history = [{"step": 4, "epoch": 1.0, "joules": 1.0}]
    assert followed.summary(history, 5.0) == dict.fromkeys(NAMES)


def test_power_is_integrated_by_trapezoids() -> None:
    """A ramp from 100 W by 1000 W a second: trapezoids are exact, whenever the samples are."""
    start = time.perf_counter()
    meter = Sampled(lambda: 100.0 + 1000.0 * (time.perf_counter() - start))
    meter.begin()
    begin = time.perf_counter() - start
    time.sleep(0.35)
    joules = meter.end()
    end = time.perf_counter() - start
    expected = 100 * (end - begin) + 500 * (end**2 - begin**2)
    assert joules == pytest.approx(expected, rel=0.03)
    assert len(meter._samples) >= 4  # the bounds, and at least two between


def test_a_sample_that_fails_is_bridged_and_a_bound_that_fails_is_an_error() -> None:
    fails = threading.Event()

    def read() -> float:
        if fails.is_set():
            raise NoAnswerError("busy")
        return WATTS

    meter = Sampled(read)
    begin = time.perf_counter()
    meter.begin()
    fails.set()
    time.sleep(0.25)
    fails.clear()
    assert meter.end() == pytest.approx(WATTS * (time.perf_counter() - begin), rel=0.02)
    meter.begin()
    fails.set()
    with pytest.raises(NoAnswerError):
        meter.end()


def test_an_early_end_leaves_no_thread() -> None:
    before = threading.active_count()
    followed = Energy(Sampled(lambda: WATTS))
    followed.training(True)
    assert threading.active_count() == before + 1
    followed.close()
    assert threading.active_count() == before
    assert followed.total() == 0.0


# -- runs -----------------------------------------------------------------------------------------


@pytest.fixture
def metered(build: Build, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """As ``build``, on a device that draws WATTS in every phase of the loop's clock."""

    def make(**options: Any) -> Any:
        built: list[Any] = []

        def joules() -> float:
            return WATTS * sum(built[0].clock.seconds.values())

        with monkeypatch.context() as patch:
            patch.setattr(loops_module, "energy_of", lambda _: Energy(Counter(joules)))
            built.append(build(**options))
        return built[0]

    return make


def test_joules_are_power_times_the_seconds_of_training(metered: Callable[..., Any]) -> None:
    loop = metered()
    loop.run()
    evaluated = [row for row in loop.history if "val/accuracy" in row]
    joules = [row["joules"] for row in evaluated]
    assert len(joules) == EPOCHS and sorted(joules) == joules
    assert joules[-1] == pytest.approx(WATTS * loop.clock.training)
    summary = loop.summary("done")
    assert summary["energy/joules"] == joules[-1]
    assert summary["energy/joules_per_epoch"] == joules[-1] / EPOCHS
    assert summary["energy/method"] == "counter"
    # Of runs so short the bounds of sections say nothing: 0.1 s each.
    assert summary["energy/error_joules"] == summary["energy/joules"]


def test_the_error_is_that_of_the_sections_bounds_at_the_mean_power() -> None:
    followed = Energy(Counter(scripted(0.0, 4000.0, 5000.0, 9000.0)))
    section(followed)
    section(followed)
    history = [{"step": 4, "epoch": 2.0, "joules": followed.total()}]
    found = followed.summary(history, 40.0)  # 200 W; two sections, each off by up to the lag
    assert found["energy/error_joules"] == pytest.approx(2 * Counter.lag * 200)


@pytest.mark.parametrize("checkpoint_every", [None, 1, 3])
def test_attempts_add_up(
    build: Build, metered: Callable[..., Any], checkpoint_every: int | None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        metered(stop=build.Stop(STEPS + 3), checkpoint_every=checkpoint_every).run()
    rest = metered(checkpoint_every=checkpoint_every)
    before = rest.energy.total()
    assert 0 < before == pytest.approx(WATTS * rest.clock.training)
    rest.run()
    assert rest.history[-1]["joules"] == pytest.approx(WATTS * rest.clock.training)
    assert rest.history[-1]["joules"] > before
    assert torch.load(rest.folder.path / "checkpoint.pt")["energy"] == rest.energy.state_dict()


@pytest.mark.parametrize("first", [None, Energy(None)], ids=["a CPU", "no NVML"])
def test_an_attempt_that_measured_nothing_leaves_the_run_without_a_sum(
    build: Build,
    metered: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    first: Energy | None,
) -> None:
    monkeypatch.setattr(loops_module, "energy_of", lambda _: first)
    with pytest.raises(KeyboardInterrupt):
        build(stop=build.Stop(STEPS + 1)).run()
    rest = metered()
    assert rest.step == STEPS
    rest.run()
    assert not any("joules" in row for row in rest.history)
    assert {name: rest.summary("done")[name] for name in NAMES} == dict.fromkeys(NAMES)


def test_both_methods_are_named_where_attempts_differ() -> None:
    first = Energy(Counter(scripted(0.0, 5.0)))
    section(first)
    second = Energy(Sampled(lambda: WATTS))
    second.load_state_dict(first.state_dict())
    found = second.summary([{"epoch": 1.0, "joules": second.total()}], 1.0)
    assert found["energy/joules"] == 5.0
    assert found["energy/method"] == "counter and sampled, 0.1 s"


def test_a_run_on_a_cpu_has_no_energy(build: Build) -> None:
    loop = build()
    loop.run()
    assert loop.energy is None
    assert "energy" not in loop.state_dict()
    assert not any("joules" in row for row in loop.history)
    assert not NAMES & loop.summary("done").keys()


def of_rank(rank: int, store: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    readings = [0.0, 10.0 + rank, 20.0, NoAnswerError("lost") if rank else 30.0]
    followed = Energy(Counter(scripted(*readings)), Team(rank, 2))
    section(followed)
    first, state = followed.total(), followed.state_dict()
    again = Energy(Counter(scripted(0.0, 1.0)), Team(rank, 2))
    again.load_state_dict(state)
    section(again)
    section(followed)
    found = (first, again.total(), followed.total(), followed.summary([{"joules": 1.0}], 1.0))
    torch.save(found, f"{out}.{rank}")
    parallel.leave()


@pytest.mark.slow
def test_ranks_are_summed_and_one_without_an_answer_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    started = multiprocessing.get_context("spawn")
    paths = (str(tmp_path / "store"), str(tmp_path / "out"))
    processes = [started.Process(target=of_rank, args=(rank, *paths)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    for rank in range(2):
        first, again, lost, summary = torch.load(f"{paths[1]}.{rank}")
        assert (first, again, lost) == (21.0, 23.0, None)
        assert summary == dict.fromkeys(NAMES)


# -- NVML -----------------------------------------------------------------------------------------

# What the real library is asked for, as a library of one device. It is built with these numbers:
# status of nvmlInit, of the counter, of the power.
LIBRARY = """
#include <stdio.h>
#include <string.h>
typedef struct { int unused; } *device;
static struct { int unused; } one;
static unsigned long long millijoules = 4000;
int nvmlInitWithFlags(unsigned flags) { return INIT; }
const char *nvmlErrorString(int status) { return "an error of the driver"; }
int nvmlDeviceGetHandleByUUID(const char *uuid, device *found) {
    *found = (device)&one;
    return strcmp(uuid, "GPU-0000") ? 6 : 0;
}
int nvmlDeviceGetTotalEnergyConsumption(device it, unsigned long long *found) {
    *found = millijoules += 1500;
    return it == (device)&one ? COUNTER : 2;
}
int nvmlDeviceGetPowerUsage(device it, unsigned *found) {
    *found = 250000;
    return it == (device)&one ? POWER : 2;
}
"""
ASK = """
import sys, time
from bench.training.energy import Energy, NoAnswerError, nvml_meter
try:
    meter = nvml_meter(sys.argv[1])
except NoAnswerError as error:
    print(error)
    sys.exit()
followed = Energy(meter)
followed.training(True)
start = time.perf_counter()
time.sleep(float(sys.argv[2]))
followed.training(False)
print(meter.method, followed.total(), time.perf_counter() - start, sep="; ")
"""


def ask(tmp_path: Path, uuid: str = "GPU-0000", seconds: float = 0.0, **statuses: int) -> str:
    """Ask a library in which these calls fail; what was printed."""
    numbers = {"INIT": 0, "COUNTER": 0, "POWER": 0, **statuses}
    source, library = tmp_path / "nvml.c", tmp_path / "libnvidia-ml.so.1"
    source.write_text(LIBRARY)
    defined = [f"-D{name}={number}" for name, number in numbers.items()]
    subprocess.run(["cc", "-shared", "-fPIC", *defined, "-o", library, source], check=True)
    asked = [sys.executable, "-c", ASK, uuid, str(seconds)]
    path = {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(asked, capture_output=True, text=True, check=True, env=path)
    assert done.stderr == ""
    return done.stdout.strip()


NEEDS_CC = pytest.mark.skipif(
    shutil.which("cc") is None or sys.platform != "linux", reason="builds a library for Linux"
)


@NEEDS_CC
def test_the_counter_is_read_in_millijoules(tmp_path: Path) -> None:
    method, joules, _ = ask(tmp_path).split("; ")
    assert (method, float(joules)) == ("counter", 1.5)


@NEEDS_CC
def test_where_there_is_no_counter_power_is_sampled_in_milliwatts(tmp_path: Path) -> None:
    method, joules, seconds = ask(tmp_path, seconds=0.3, COUNTER=3).split("; ")
    assert method == "sampled, 0.1 s"
    assert float(joules) == pytest.approx(250 * float(seconds), rel=0.05)


@NEEDS_CC
@pytest.mark.parametrize(
    ("uuid", "statuses", "said"),
    [
        ("MIG-0000", {}, "nvmlDeviceGetHandleByUUID: "),
        ("GPU-0000", {"INIT": 4}, "nvmlInit: "),  # no permission
        ("GPU-0000", {"COUNTER": 3, "POWER": 3}, "nvmlDeviceGetPowerUsage: "),
    ],
)
def test_no_answer_is_said_in_a_line(
    tmp_path: Path, uuid: str, statuses: dict[str, int], said: str
) -> None:
    assert ask(tmp_path, uuid, **statuses).startswith(said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a library is there")
def test_a_machine_without_the_library_has_no_meter() -> None:
    with pytest.raises(NoAnswerError, match="nvmlInit"):
        nvml_meter("GPU-0000")


def test_without_the_package_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoAnswerError, match="nvidia-ml-py is not installed"):
        nvml_meter("GPU-0000")


@pytest.mark.parametrize("packed", ["1", "2"])
def test_runs_that_share_a_device_measure_nothing(
    monkeypatch: pytest.MonkeyPatch, packed: str, build: Build
) -> None:
    """A GPU that only names itself: whether its meter is asked for is the question."""
    uuid = type("Properties", (), {"uuid": "0000"})()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: uuid)
    monkeypatch.setattr(energy, "nvml_meter", lambda name: steady() if name == "GPU-0000" else None)
    monkeypatch.setenv(PACKED, packed)
    found = energy_of(setup_of(build.TRAINER, device=torch.device("cuda", 0)))
    assert found is not None
    assert found.total() == (0.0 if packed == "1" else None)
