"""Stratified splits and per-channel statistics, both exact and reproducible."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.data.images import Split
from bench.seeding import generator


def held_out_count(size: int | float, total: int, what: str = "validation") -> int:
    """Return how many of ``total`` samples ``size`` means: a fraction (float) or a count (int).

    Raises:
        ValueError: it is no number of that kind, or leaves one of the two parts empty.
    """
    valid = isinstance(size, int | float) and not isinstance(size, bool) and math.isfinite(size)
    if valid and (isinstance(size, int) or 0 < size < 1):
        count = size if isinstance(size, int) else round(size * total)
        if 0 < count < total:
            return count
    raise ValueError(
        f"{what}={size} cannot be taken out of {total} images: give a fraction between 0 and 1 "
        f"(0.1) or a count from 1 to {total - 1}"
    )


def split_stratified(source: Split, count: int, stream: torch.Generator) -> tuple[Split, Split]:
    """Return (rest, held out) as `stratified` chooses, both in their original order."""
    held = stratified(source.labels.cpu(), count, stream).to(source.images.device)
    return source.take(~held), source.take(held)


def stratified(labels: Tensor, count: int, stream: torch.Generator) -> Tensor:
    """Return which of the samples to hold out, bool [N]: exactly ``count``, by class shares.

    A class of k samples gives k * count / N rounded down; what is missing comes from the classes
    with the largest remainders. ``labels`` are int64 [N] on the CPU.
    """
    classes, sizes = torch.unique(labels, return_counts=True)
    quota = sizes * count // len(labels)
    remainder = sizes * count % len(labels)
    most = remainder.argsort(descending=True, stable=True)[: count - int(quota.sum())]
    quota[most] += 1
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, wanted in zip(classes, quota.tolist(), strict=True):
        members = (labels == label).nonzero().flatten()
        held[members[torch.randperm(len(members), generator=stream)[:wanted]]] = True
    return held


def split_validation(
    images: Tensor, labels: Tensor, size: int | float, seed: int
) -> tuple[Split, Split]:
    """Return (train, validation), the latter chosen by the run's ``seed``, stratified by class.

    Args:
        images: uint8 [N, C, H, W], the training images of the dataset.
        labels: int64 [N].
        size: a fraction of N (float between 0 and 1) or a count (int).
        seed: the run's seed; it decides which samples, never how many.

    Raises:
        ValueError: ``size`` leaves one of the two parts empty.
    """
    source = Split(images, labels)
    count = held_out_count(size, len(source))
    return split_stratified(source, count, generator(seed, "validation"))


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, std) a channel of uint8 images [N, C, H, W], for pixels scaled to [0, 1].

    Sums are of integers, hence exact and the same everywhere. A constant channel has std 1, so
    that it normalises to zero.
    """
    channels = images.shape[1]
    total, squares = torch.zeros(2, channels, dtype=torch.int64, device=images.device)
    for chunk in torch.split(images, 1024):
        values = chunk.long()
        total += values.sum(dim=(0, 2, 3))
        squares += values.square().sum(dim=(0, 2, 3))
    count = images.numel() // channels
    means, stds = [], []
    for first, second in zip(total.tolist(), squares.tolist(), strict=True):
        variance = (count * second - first * first) / count**2
        means.append(first / count / 255)
        stds.append(math.sqrt(variance) / 255 if variance > 0 else 1.0)
    return tuple(means), tuple(stds)
