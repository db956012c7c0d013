"""Training as `bench.train` does it, without evaluation, history and checkpoints, to be timed."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import NamedTuple

import torch

from bench import experiment
from bench.build import build_optimizer, build_schedule
from bench.config import RunConfig
from bench.data.base import Data
from bench.device import choose_memory_format, choose_precision
from bench.speed.stopwatch import Epoch
from bench.training.evaluation import laid_out
from bench.training.loss_window import LossWindow
from bench.training.step import TrainingStep

_BURSTS, _BURST = 7, 10  # steps in a burst: few enough that a device's queue takes them all


class Pace(NamedTuple):
    """Milliseconds a step: until the host has launched it, and from the device's start to end."""

    host: float
    device: float


class OurLoop:
    """The trainer's own step on ``data``, which lie where it computes.

    Attributes:
        preparation: seconds of the steps so far that compiled, or prepared a graph.
        notes: what the step said, of a graph that it does without.
    """

    def __init__(
        self, run_config: RunConfig, data: Data, device: torch.device, label: str = ""
    ) -> None:
        trainer = run_config.trainer
        self._label = label
        self.data, self.config, self.device = data.to(device), run_config, device
        self.precision = choose_precision(trainer.precision, device)
        self.memory_format = choose_memory_format(trainer.channels_last, device)
        model = experiment.seeded_model(run_config, data.shape)
        model = model.to(device=device, memory_format=self.memory_format)  # type: ignore[call-overload]
        optimizer = build_optimizer(run_config.optimizer, model)
        steps = data.steps_per_epoch(trainer.batch_size)
        self.notes: list[str] = []
        self.step = TrainingStep(
            model=model,
            optimizer=optimizer,
            schedule=build_schedule(run_config.schedule, optimizer, 1000 * steps),
            device=device,
            precision=self.precision,
            config=trainer,
            say=self.notes.append,
        )
        self.window = LossWindow(trainer.log_every, device)
        self.number = 0
        self.preparation = 0.0

    def epoch(self, steps: int | None = None) -> Epoch:
        """Make one epoch, or its first ``steps`` steps."""
        start = time.perf_counter()
        count, waiting = 0, 0.0
        trainer = self.config.trainer
        batches = self.data.train_batches(self.config.seed, self.number, trainer.batch_size)
        while count != steps:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            cold, began = self.step.cold, time.perf_counter()
            waiting += began - asked
            self.window.add(self.step(laid_out(batch[0], self.memory_format), batch[1]))
            self.preparation += time.perf_counter() - began if cold else 0.0
            count += 1
            if count % trainer.log_every == 0:
                self.window.take()
        self.window.take()
        self.number += 1
        return Epoch(time.perf_counter() - start, count, waiting)

    def pace(self) -> Pace | None:
        """Return the medians over short bursts of steps; None where host and device are one.

        Where the host's are below the device's, the host is not what bounds an epoch.
        """
        if self.device.type != "cuda":
            return None
        bursts = [self._burst() for _ in range(_BURSTS)]
        host, device = (statistics.median(times) for times in zip(*bursts, strict=True))
        return Pace(host, device)

    def _burst(self) -> Pace:
        size = self.config.trainer.batch_size
        batches = self.data.train_batches(self.config.seed, self.number, size)
        first = next(batches)  # the epoch's order is drawn here, on the host
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(self.device)
        start, count = time.perf_counter(), 0
        begin.record()
        for inputs, targets in itertools.chain([first], itertools.islice(batches, _BURST - 1)):
            self.window.add(self.step(laid_out(inputs, self.memory_format), targets))
            count += 1
        end.record()
        host = 1e3 * (time.perf_counter() - start)
        torch.cuda.synchronize(self.device)
        self.window.take()
        return Pace(host / count, float(begin.elapsed_time(end)) / count)

    @property
    def name(self) -> str:
        """The label given, and how steps are made."""
        how = ["compiled" if self.config.trainer.compile else "eager", self.precision]
        how += ["CUDA graph"] if self.step.graph else []
        return f"ours, {self._label} ({', '.join(how)})"
