"""What a plain PyTorch script does: a DataLoader, transforms on the CPU, an eager loop.

The yardstick of `bench.speed.epoch`; nothing of ours is in it but the samples. It is written as the
usual CIFAR scripts are: PIL transforms in worker processes, pinned memory, cuDNN's search for the
fastest convolutions, channels first, torch's defaults elsewhere, the loss read at every step.
"""

from __future__ import annotations

import itertools
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
from bench.speed.stopwatch import Epoch


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
