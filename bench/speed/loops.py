"""The loops that `bench.speed.epoch` times: a plain PyTorch script's, and ours.

The plain one is the yardstick; nothing of ours is in it but the samples. It is written as the usual
CIFAR scripts are: a DataLoader, PIL transforms in worker processes, pinned memory, cuDNN's search
for the fastest convolutions, channels first, torch's defaults elsewhere, an eager step, the loss
read at every step. Ours trains as `bench.train` does, without evaluation, history and checkpoints.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench.compat import ensure_torchvision
from bench.data.base import Data
from bench.data.images import ImageData
from bench.parts import build_parts
from bench.setup import Setup
from bench.speed.stopwatch import Epoch
from bench.training.evaluation import laid_out
from bench.training.losses import LossWindow
from bench.training.step import TrainingStep


class Variant(NamedTuple):
    """A way to compute the plain step; ``exact``: TF32 off, else as torch sets it by default."""

    name: str
    amp: bool = False
    exact: bool = False


def variants(device: torch.device) -> tuple[Variant, ...]:
    """Return the plain loops worth telling apart on ``device``."""
    amp = Variant("(b) plain AMP", amp=True)
    if device.type != "cuda":
        return Variant("(a) plain float32"), amp
    off = Variant("(a) plain float32, TF32 off", exact=True)
    return off, Variant("(a') plain, torch's defaults (TF32 convolutions)"), amp


class Images(Dataset[tuple[Tensor, int]]):
    """The training images of ``data``, transformed one at a time on the CPU."""

    def __init__(self, data: ImageData) -> None:
        ensure_torchvision()
        from torchvision import transforms

        self.images = data.train.images.cpu().permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = data.train.labels.tolist()
        size, augment = data.shape.image_size, data.augment
        steps: list[Any] = [transforms.ToPILImage()]
        if augment.pad:
            steps.append(transforms.RandomCrop(size, padding=augment.pad))
        if augment.flip:
            steps.append(transforms.RandomHorizontalFlip())
        steps += [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
        self.transform: Callable[[Any], Tensor] = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


class Ready(Dataset[tuple[Tensor, Tensor]]):
    """Samples as they are, from the first epoch's batches: tokens need no transforms."""

    def __init__(self, data: Data, batch_size: int) -> None:
        pairs = [(x.cpu(), y.cpu()) for x, y in data.train_batches(0, 0, batch_size)]
        self.inputs, self.targets = (torch.cat(part) for part in zip(*pairs, strict=True))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]


def make_loader(data: Data, batch_size: int, workers: int) -> DataLoader[Any]:
    """Return the script's DataLoader; its workers live on from epoch to epoch."""
    dataset: Dataset[Any] = Images(data) if isinstance(data, ImageData) else Ready(data, batch_size)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )


class PlainLoop:
    """The script's training loop."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: DataLoader[Any],
        device: torch.device,
        variant: Variant,
    ) -> None:
        self.model, self.optimizer = model.to(device), optimizer
        self.loader, self.device, self.variant = loader, device, variant
        self.name = variant.name
        self._waiting = 0.0

    def epoch(self, steps: int | None = None) -> Epoch:
        """Make one epoch, or its first ``steps`` steps."""
        self.model.train()
        self._waiting, total, count = 0.0, 0.0, 0
        start = time.perf_counter()
        with _without_tf32() if self.variant.exact else nullcontext():
            for inputs, targets in self._batches(steps):
                self.optimizer.zero_grad()
                with torch.autocast(
                    self.device.type, dtype=torch.bfloat16, enabled=self.variant.amp
                ):
                    logits = self.model(inputs)
                    loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                total += loss.item()
                count += 1
        return Epoch(time.perf_counter() - start, count, self._waiting)

    def _batches(self, steps: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        began = time.perf_counter()
        for inputs, targets in itertools.islice(self.loader, steps):
            self._waiting += time.perf_counter() - began
            yield (
                inputs.to(self.device, non_blocking=True),
                targets.to(self.device, non_blocking=True),
            )
            began = time.perf_counter()


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Compute float32 convolutions and products on CUDA in float32."""
    backends: Any = torch.backends
    modules = (backends.cudnn.conv, backends.cuda.matmul)
    kept = [module.fp32_precision for module in modules]
    try:
        for module in modules:
            module.fp32_precision = "ieee"
        yield
    finally:
        for module, precision in zip(modules, kept, strict=True):
            module.fp32_precision = precision


_BURSTS, _BURST = 7, 10  # steps in a burst: few enough that a device's queue takes them all


class Pace(NamedTuple):
    """Milliseconds a step: until the host has launched it, and from the device's start to end."""

    host: float
    device: float


class OurLoop:
    """The trainer's own step, made of a run's parts.

    Attributes:
        preparation: seconds of the steps so far that compiled, or prepared a graph.
        notes: the step's own, on a graph that it does without.
    """

    def __init__(self, setup: Setup, data: Data, label: str = "") -> None:
        parts = build_parts(setup, data)
        self.setup, self.data, self._label = setup, parts.data, label
        self.notes: list[str] = []
        self.step = TrainingStep(
            setup, parts.model, parts.optimizer, parts.schedule, note=self.notes.append
        )
        self.window = LossWindow(setup.config.trainer.log_every, setup.device)
        self.number = 0
        self.preparation = 0.0

    def epoch(self, steps: int | None = None) -> Epoch:
        """Make one epoch, or its first ``steps`` steps."""
        start = time.perf_counter()
        count, waiting = 0, 0.0
        log_every = self.setup.config.trainer.log_every
        batches = self._batches()
        while count != steps:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            cold, began = self.step.cold, time.perf_counter()
            waiting += began - asked
            self.window.add(self.step(laid_out(batch[0], self.setup.memory_format), batch[1]))
            self.preparation += time.perf_counter() - began if cold else 0.0
            count += 1
            if count % log_every == 0:
                self.window.take()
        self.window.take()
        self.number += 1
        return Epoch(time.perf_counter() - start, count, waiting)

    def pace(self) -> Pace | None:
        """Return the medians over short bursts of steps; None where host and device are one.

        Where the host's are below the device's, the host is not what bounds an epoch.
        """
        if self.setup.device.type != "cuda":
            return None
        bursts = [self._burst() for _ in range(_BURSTS)]
        host, device = (statistics.median(times) for times in zip(*bursts, strict=True))
        return Pace(host, device)

    def _burst(self) -> Pace:
        batches = self._batches()
        first = next(batches)  # the epoch's order is drawn here, on the host
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(self.setup.device)
        start, count = time.perf_counter(), 0
        begin.record()
        for inputs, targets in itertools.chain([first], itertools.islice(batches, _BURST - 1)):
            self.window.add(self.step(laid_out(inputs, self.setup.memory_format), targets))
            count += 1
        end.record()
        host = 1e3 * (time.perf_counter() - start)
        torch.cuda.synchronize(self.setup.device)
        self.window.take()
        return Pace(host / count, float(begin.elapsed_time(end)) / count)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        config = self.setup.config
        return self.data.train_batches(config.seed, self.number, config.trainer.batch_size)

    @property
    def name(self) -> str:
        """The label given, and how steps are made."""
        compiled = self.setup.config.trainer.compile
        how = ["compiled" if compiled else "eager", self.setup.precision]
        how += ["CUDA graph"] if self.step.graph else []
        return f"ours, {self._label} ({', '.join(how)})"
