"""Spectral transfer and polar factor of matrices of many shapes, through shared Gram matrices.

On a GPU the cost of a small matrix is its number of kernels. U f(S) V^T depends on the Gram matrix
of the short side alone, so matrices of one short side can share its products whatever their long
sides. And zero rows and columns change neither Gram matrix nor result: where the sizes are small, a
matrix is padded to share the batch of a larger one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from optimizers.math.fits import polynomial_degree, polynomial_fit
from optimizers.math.gram import evaluate_chebyshev, square_bound
from optimizers.math.methods import unit_roundoff
from optimizers.math.polar import GRAM_FROM, direct_steps, gram_factor, steps_per_gram

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


# Up to this many elements a batch costs kernels, not arithmetic: it had better share them.
_SMALL = 2**22


class SharedTransfer(NamedTuple):
    """A bucket of stacks, and the polynomial of each of its K matrices.

    ``coefficients`` is ``[K, degree + 1]`` and ``scale`` ``[K, 1, 1]``, float32, on their device.
    """

    bucket: Bucket
    coefficients: Tensor
    scale: Tensor


def share_transfer(
    shapes: Sequence[tuple[int, int, int]],
    alphas: Sequence[float],
    damping: float,
    tolerance: float,
    devices: Sequence[torch.device],
    *,
    padding: int | None = None,
) -> list[SharedTransfer]:
    """Sort stacks ``shapes`` = (count, rows, cols), an alpha and a device each, and fit.

    ``padding`` is that of :func:`optimizers.math.stacks.share`. Raises ValueError where no
    polynomial reaches ``tolerance`` for an alpha and ``damping``.
    """
    found = []
    for bucket in share(shapes, devices, padding):
        order = bucket.stacks
        # One degree for the batch: the largest that one of its alphas needs.
        degree = max(polynomial_degree(alphas[i], damping, tolerance) for i in order)
        fits = [
            polynomial_fit(alphas[i], damping, degree) for i in order for _ in range(shapes[i][0])
        ]
        coefficients = torch.tensor([fit.coefficients for fit in fits], dtype=torch.float32)
        scale = torch.tensor([fit.scale for fit in fits], dtype=torch.float32).reshape(-1, 1, 1)
        device = devices[order[0]]
        found.append(SharedTransfer(bucket, coefficients.to(device), scale.to(device)))
    return found


def transfer_stacks(
    stacks: Sequence[Tensor], shared: Sequence[SharedTransfer], normalize: str, dtype: torch.dtype
) -> list[Tensor]:
    """T of every matrix of every stack ``[k, rows, cols]``, by the fitted polynomials.

    ``normalize``: "schatten8" divides sigma by (sum sigma^8)^(1/8) >= sigma_1, which costs
    nothing here; "frobenius" by ||sigma||. Products run in ``dtype``; what comes is float32, or
    float64 if they did. A zero matrix maps to zero.
    """
    results: dict[int, Tensor] = {}
    for bucket, coefficients, scale in shared:
        root = bucket.side**0.25  # this norm keeps the Gram matrix's square within fp16's range
        packed = pack(stacks, bucket, root, dtype)
        counts = [len(batch) for batch in packed]
        gram = torch.cat([batch @ batch.mT for batch in packed])
        square = gram @ gram
        if normalize == "schatten8":
            bound = square_bound(square)
        else:
            bound = torch.full_like(square[:, :1, :1], root, dtype=torch.float32)
        # A polynomial grows fast beyond 1: rounding must not push sigma_1 there.
        inverse = 1 / (bound * (1 + unit_roundoff(dtype))).clamp(min=0.5 / root)  # below: zero
        gram = (gram * inverse**2).to(dtype)
        square = (square * inverse**4).to(dtype)
        factor = evaluate_chebyshev(gram, coefficients, square)
        moved = [part @ x for part, x in zip(torch.split(factor, counts), packed, strict=True)]
        gains = torch.split(scale * inverse, counts)  # float32 or wider, and so is the product
        scaled = [matrix * gain for matrix, gain in zip(moved, gains, strict=True)]
        results.update(unpack(scaled, bucket, stacks))
    return [results[index] for index in range(len(stacks))]


def polar_stacks(
    stacks: Sequence[Tensor],
    buckets: Sequence[Bucket],
    quintics: Sequence[tuple[float, ...]],
    dtype: torch.dtype,
) -> list[Tensor]:
    """Polar factor of every matrix of every stack ``[k, rows, cols]``, by the quintics.

    As :func:`optimizers.math.polar.newton_schulz` with form "gram" where that is the cheaper one,
    and "direct" in large batches of nearly square matrices. Products run in ``dtype``,
    which is the result's.
    """
    results: dict[int, Tensor] = {}
    runs = steps_per_gram(quintics, torch.finfo(dtype).eps)
    for bucket in buckets:
        packed = pack(stacks, bucket, 1.0, dtype)
        by_gram = [
            batch.shape[-1] > GRAM_FROM * bucket.side or batch.numel() <= _SMALL for batch in packed
        ]
        moved = [x for x, chosen in zip(packed, by_gram, strict=True) if chosen]
        counts = [len(batch) for batch in moved]
        for some in runs if moved else ():
            factor = gram_factor(torch.cat([x @ x.mT for x in moved]), some)
            moved = [part @ x for part, x in zip(torch.split(factor, counts), moved, strict=True)]
        shared = iter(moved)
        polar = [
            next(shared) if chosen else direct_steps(x, quintics)
            for x, chosen in zip(packed, by_gram, strict=True)
        ]
        results.update(unpack(polar, bucket, stacks))
    return [results[index] for index in range(len(stacks))]
