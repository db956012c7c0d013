"""Matrices of many shapes in few batches, for work whose cost is the number of kernels.

U f(S) V^T depends on the Gram matrix of the short side alone, so matrices of one short side can
share its products whatever their long sides. And zero rows and columns change neither Gram matrix
nor result: where the sizes are small, a matrix is padded to share the batch of a larger one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of padding that cost a GPU less than the kernels that they save (about a microsecond a
# million in half precision), and the side's multiple without which tensor cores stand idle.
_GPU_PADDING, _GPU_ALIGNMENT = 2**21, 8
# Below this norm a matrix counts as zero: the squares of its entries are lost in float32.
_TINY = 1e-18
# What is done with a Gram matrix passes over it about so many times.
_GRAM_PASSES = 4


class Batch(NamedTuple):
    """Stacks, by index, that share one product: each brought to ``length`` columns."""

    length: int
    stacks: tuple[int, ...]


class Bucket(NamedTuple):
    """Batches of one short side, which share what is done with their Gram matrices."""

    side: int
    batches: tuple[Batch, ...]

    @property
    def stacks(self) -> tuple[int, ...]:
        """Indices of the bucket's stacks, in the order of its matrices."""
        return tuple(index for batch in self.batches for index in batch.stacks)


@dataclass(frozen=True)
class _Shape:
    index: int
    count: int
    short: int
    long: int


def share(
    shapes: Sequence[tuple[int, int, int]],
    devices: Sequence[torch.device],
    padding: int | None = None,
) -> list[Bucket]:
    """Sort stacks of ``shapes`` = (count, rows, cols) into buckets; one device a bucket.

    ``padding`` is how many zeros a bucket may gain by taking in smaller sides, and again by making
    its matrices equally long. By default a GPU pads, and a CPU, which pays by the
    element, does not.
    """
    found = []
    for device in dict.fromkeys(devices):
        on_gpu = device.type == "cuda"
        spare = padding if padding is not None else _GPU_PADDING if on_gpu else 0
        align = _GPU_ALIGNMENT if on_gpu or padding else 1
        mine = [
            _Shape(i, count, min(rows, cols), max(rows, cols))
            for i, (count, rows, cols) in enumerate(shapes)
            if devices[i] == device
        ]
        for side, members in _by_side(mine, spare, align):
            found.append(Bucket(side, _by_length(members, side, spare)))
    return found


def _by_side(
    shapes: Sequence[_Shape], spare: int, align: int
) -> Iterator[tuple[int, list[_Shape]]]:
    """Groups of one padded short side; small groups join the next larger side."""
    sides: dict[int, list[_Shape]] = {}
    for shape in shapes:
        sides.setdefault(-(-shape.short // align) * align, []).append(shape)
    members: list[_Shape] = []
    ordered = sorted(sides)
    for side, following in zip(ordered, [*ordered[1:], None], strict=True):
        members = members + sides[side]
        joined = following is not None and (
            sum(_zeros(member, following) for member in members) <= spare
        )
        if joined:
            continue
        yield side, members
        members = []


def _zeros(shape: _Shape, side: int) -> int:
    """Elements that the shape's matrices and their Gram matrices gain with this short side."""
    gram = side**2 - shape.short**2
    return shape.count * ((side - shape.short) * shape.long + _GRAM_PASSES * gram)


def _by_length(members: Sequence[_Shape], side: int, spare: int) -> tuple[Batch, ...]:
    """Batches of one length, from the longest on; shorter stacks join while padding is spare."""
    batches: list[Batch] = []
    for shape in sorted(members, key=lambda m: -m.long):
        if batches:
            length, stacks = batches[-1]
            zeros = shape.count * side * (length - shape.long)
            if zeros <= spare:
                spare -= zeros
                batches[-1] = Batch(length, (*stacks, shape.index))
                continue
        batches.append(Batch(shape.long, (shape.index,)))
    return tuple(batches)


def pack(stacks: Sequence[Tensor], bucket: Bucket, norm: float, dtype: torch.dtype) -> list[Tensor]:
    """Return each batch of the bucket as ``[K, side, length]`` in ``dtype``.

    Every matrix is scaled to Frobenius norm ``norm``, in float32 and before it is rounded: half
    precision's range is small. A zero matrix stays zero.
    """
    packed = []
    for batch in bucket.batches:
        parts = []
        for index in batch.stacks:
            matrices = _short_side_first(stacks[index])
            wide = torch.promote_types(matrices.dtype, torch.float32)
            matrices = with_norm(matrices.to(wide), norm).to(dtype)
            zeros = (0, batch.length - matrices.shape[2], 0, bucket.side - matrices.shape[1])
            parts.append(F.pad(matrices, zeros) if any(zeros) else matrices)
        packed.append(torch.cat(parts) if len(parts) > 1 else parts[0])
    return packed


def unpack(
    packed: Sequence[Tensor], bucket: Bucket, stacks: Sequence[Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index, ``[k, rows, cols]``) of each of the bucket's stacks: the inverse of pack."""
    for batch, together in zip(bucket.batches, packed, strict=True):
        start = 0
        for index in batch.stacks:
            count, rows, cols = stacks[index].shape
            short, long = sorted((rows, cols))
            matrices = together[start : start + count, :short, :long]
            start += count
            yield index, matrices.mT if rows > cols else matrices


def with_norm(matrices: Tensor, norm: float) -> Tensor:
    """Scale each matrix of ``[k, rows, cols]``, float32 or wider, to Frobenius norm ``norm``.

    A zero matrix stays zero.
    """
    length = torch.linalg.matrix_norm(matrices, keepdim=True)
    return matrices * torch.where(length < _TINY, 0.0, norm / length)


def _short_side_first(matrices: Tensor) -> Tensor:
    return matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices


def product_dtype(matrices: Tensor) -> torch.dtype:
    """Float16 on a GPU, whose tensor cores accumulate it in float32; else at least float32."""
    wide = torch.promote_types(matrices.dtype, torch.float32)
    return torch.float16 if matrices.is_cuda else wide
