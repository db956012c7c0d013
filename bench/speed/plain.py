"""What a plain PyTorch script does: a DataLoader, transforms on the CPU, an eager loop.

The yardstick of `bench.speed.epoch`; nothing of ours is in it but the samples. It is written as the
usual CIFAR scripts are: PIL transforms in worker processes, pinned memory, channels first, torch's
defaults everywhere, the loss read at every step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench.compat import ensure_torchvision
from bench.data.base import Data
from bench.data.images import ImageData


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
    """The script's training loop; ``epoch()`` makes one and returns its seconds and its steps."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: DataLoader[Any],
        device: torch.device,
        *,
        amp: bool,
    ) -> None:
        self.model, self.optimizer = model.to(device), optimizer
        self.loader, self.device, self.amp = loader, device, amp

    def epoch(self, steps: int | None = None) -> tuple[float, int]:
        """Make one epoch, or its first ``steps`` steps."""
        self.model.train()
        total, count = 0.0, 0
        start = time.perf_counter()
        for inputs, targets in self._batches(steps):
            self.optimizer.zero_grad()
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp):
                logits = self.model(inputs)
                loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.item()
            count += 1
        return time.perf_counter() - start, count

    def _batches(self, steps: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        for number, (inputs, targets) in enumerate(self.loader):
            if number == steps:
                return
            yield (
                inputs.to(self.device, non_blocking=True),
                targets.to(self.device, non_blocking=True),
            )
