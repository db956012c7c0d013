"""Joules that a GPU uses while a run trains, as NVML reads them (the package nvidia-ml-py).

Training is what the clock calls so: data and steps, without evaluation, compiling, checkpoints and
curvature. Each stretch of it is a section. Two methods:

- "counter": the device's own count of millijoules (Volta and later), read at a section's bounds. It
  is updated every 20 to 100 ms, so a bound may be late by that much.
- "sampled, 0.1 s": its power every 0.1 s, by trapezoids. From Ampere on one reading is the mean of
  up to the last second (NVML's reference), and a bound may be late by that much. On an A100 and
  H100 the sensor looks only 25 % of the time, and what changes faster is lost.

Both rest on the board's sensor, whose own error is in proportion to the power, about 5 %: Yang,
Adamek and Armour, "Accurate and Convenient Energy Measurements for GPUs", SC 2024 (arXiv
2312.02741). They include what the device uses when idle, and every other process on it.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from bench.launch.pool import PACKED
from bench.run_folder import Row
from bench.setup import Setup
from bench.training.parallel import ALONE, Team

_SAMPLE_SECONDS = 0.1
_log = logging.getLogger(__name__)

Read = Callable[[], float]


class NoAnswerError(Exception):
    """The device's energy is not known; the text says why."""


class Meter(Protocol):
    """Measures one section after the other; both methods raise `NoAnswerError`."""

    method: str
    lag: float  # seconds by which a section's bound may be late

    def begin(self) -> None:
        """A section begins."""

    def end(self) -> float:
        """The section is over: return its joules."""


class Counter:
    """Sections of a counter that only rises; ``read`` returns joules since some moment."""

    method, lag = "counter", 0.15  # an H200 updates it every 0.1 s or a little later

    def __init__(self, read: Read) -> None:
        self._read, self._first = read, math.nan

    def begin(self) -> None:
        """Read the counter."""
        self._first = self._read()

    def end(self) -> float:
        """Return what the counter rose by.

        Raises:
            NoAnswerError: it went back, as where the driver is loaded anew.
        """
        joules = self._read() - self._first
        if not joules >= 0:
            raise NoAnswerError(f"the energy counter went back by {-joules:g} J")
        return joules


class Sampled:
    """Sections of power sampled by a thread; ``read`` returns watts."""

    method, lag = f"sampled, {_SAMPLE_SECONDS:g} s", 1.0

    def __init__(self, read: Read) -> None:
        self._read, self._over = read, threading.Event()
        self._samples: list[tuple[float, float]] = []
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Take the first sample and start the thread; it lives as long as the section."""
        self._samples = []
        self._over.clear()
        self._sample()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def end(self) -> float:
        """Take the last sample; return the trapezoids' area."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self._sample()
        return sum(
            (after - before) * (one + other) / 2
            for (before, one), (after, other) in itertools.pairwise(self._samples)
        )

    def _follow(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            try:
                self._sample()
            except NoAnswerError:  # a gap is bridged; the last sample says it if nothing answers
                continue

    def _sample(self) -> None:
        self._samples.append((time.perf_counter(), self._read()))


class Energy:
    """A run's joules over all its attempts and devices; unknown from the first doubt on.

    Args:
        meter: of this process's device; None where nothing answers.
        team: the run's processes, each with a device of its own.
        wait: returns when the device has done its work.
    """

    def __init__(
        self, meter: Meter | None, team: Team = ALONE, wait: Callable[[], None] = lambda: None
    ) -> None:
        self._meter, self._team, self._wait = meter, team, wait
        self._joules = 0.0 if meter is not None else None
        self._methods = {meter.method} if meter is not None else set()
        self._late = 0.0  # seconds: the lags of all sections
        self._inside = False

    def training(self, on: bool) -> None:
        """Training goes on, or something else begins: a section is what lies between."""
        if on is self._inside or self._meter is None or self._joules is None:
            return
        try:
            if on:
                self._meter.begin()
            else:
                self._wait()
                self._joules += self._meter.end()
                self._late += self._meter.lag
        except NoAnswerError as error:
            _log.debug("no energy from here on: %s", error)
            self._joules = None
        self._inside = on and self._joules is not None

    def total(self) -> float | None:
        """Return the joules of all devices so far, None if not known; every rank must ask."""
        if self._team.size > 1:
            own = torch.tensor(math.nan if self._joules is None else self._joules).double()
            joules = float(self._team.mean(own)) * self._team.size
            if math.isnan(joules):
                self._joules = None
            return None if math.isnan(joules) else joules
        return self._joules

    def close(self) -> None:
        """Drop the section that a run was in when it ended early."""
        if self._inside and self._meter is not None:
            self._inside = False
            try:
                self._meter.end()
            except NoAnswerError as error:
                _log.debug("no energy at the end: %s", error)

    def summary(self, history: Sequence[Row], seconds: float) -> dict[str, Any]:
        """Return what a summary has of energy: up to the last evaluation, None where not known.

        ``energy/error_joules`` bounds what the sections' bounds may be off by, at the mean power of
        all devices over ``seconds`` of training; the sensor's own error comes on top.
        """
        last = next((row for row in reversed(history) if "joules" in row), None)
        if last is None or self._joules is None or seconds <= 0:
            return dict.fromkeys(_NAMES)
        joules = last["joules"]
        values = (
            joules,
            joules / last["epoch"],
            min(joules, self._late / seconds * joules),
            " and ".join(sorted(self._methods)),
        )
        return dict(zip(_NAMES, values, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return what the run has used so far; every rank must ask."""
        return {"joules": self.total(), "late": self._late, "methods": sorted(self._methods)}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from ``state``; None: the attempt before measured nothing."""
        if state is None or state["joules"] is None:
            self._joules = None
            return
        if self._joules is not None:
            self._joules = float(state["joules"]) if self._team.leads else 0.0
        self._late = state["late"]
        self._methods |= set(state["methods"])


_NAMES = ("energy/joules", "energy/joules_per_epoch", "energy/error_joules", "energy/method")


def energy_of(setup: Setup) -> Energy | None:
    """Return what follows a run's energy: None on a CPU, one that knows nothing without NVML."""
    if setup.device.type != "cuda":
        return None
    try:
        if int(os.environ.get(PACKED, "1")) > 1:
            raise NoAnswerError("runs share the device, and NVML reads all of them at once")
        meter = nvml_meter(f"GPU-{torch.cuda.get_device_properties(setup.device).uuid}")
    except NoAnswerError as error:
        _log.debug("no energy: %s", error)
        meter = None
    return Energy(meter, setup.team, lambda: torch.cuda.synchronize(setup.device))


def nvml_meter(uuid: str) -> Meter:
    """Return the better meter of a device, by its UUID: an index is another in CUDA and in NVML.

    A part of a GPU (MIG) has a UUID of its own, which NVML has no energy of.

    Raises:
        NoAnswerError: no package, library, device or permission.
    """
    try:
        import pynvml
    except ImportError as error:
        raise NoAnswerError("nvidia-ml-py is not installed") from error

    def asking(ask: Callable[..., float], *arguments: Any) -> float:
        try:
            return ask(*arguments)
        except (pynvml.NVMLError, OSError) as error:
            raise NoAnswerError(f"{ask.__name__}: {error}") from error

    asking(pynvml.nvmlInit)
    device = asking(pynvml.nvmlDeviceGetHandleByUUID, uuid.encode())

    def joules() -> float:
        return asking(pynvml.nvmlDeviceGetTotalEnergyConsumption, device) / 1000

    def watts() -> float:
        return asking(pynvml.nvmlDeviceGetPowerUsage, device) / 1000

    try:
        joules()
    except NoAnswerError:
        watts()
        return Sampled(watts)
    return Counter(joules)
