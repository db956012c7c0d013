"""FashionMNIST, CIFAR-10 and CIFAR-100 through torchvision's classes.

A run only reads; ``prepare`` downloads, on request (``python -m bench.prepare``).
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from bench.build import ImageShape
from bench.compat import ensure_torchvision
from bench.data.base import MissingDataError
from bench.data.images import Augment, ImageData, Split
from bench.data.splits import channel_statistics, split_validation

Kind: TypeAlias = Literal["fashion_mnist", "cifar10", "cifar100"]


@dataclasses.dataclass(frozen=True)
class _Source:
    """``folder`` is where torchvision keeps it; ``archives`` what is fetched, from and to where."""

    class_name: str
    shape: ImageShape
    folder: str
    archives: str


_SOURCES: dict[str, _Source] = {
    "fashion_mnist": _Source(
        "FashionMNIST",
        ImageShape(1, 10, 28),
        "FashionMNIST/raw",
        "{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz (four files) from "
        "https://github.com/zalandoresearch/fashion-mnist into {root}/FashionMNIST/raw",
    ),
    "cifar10": _Source(
        "CIFAR10",
        ImageShape(3, 10, 32),
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html into {root}",
    ),
    "cifar100": _Source(
        "CIFAR100",
        ImageShape(3, 100, 32),
        "cifar-100-python",
        "cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html into {root}",
    ),
}

# What torchvision's readers raise for files that are absent, cut short or of another kind.
_READ_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, AssertionError, OSError, EOFError)


def load(
    root: Path,
    seed: int,
    *,
    kind: Kind,
    validation: int | float = 0.1,
    pad: int = 0,
    flip: bool = False,
) -> ImageData:
    """Return one of the datasets; its test split is the publisher's.

    Args:
        root: the data folder, in torchvision's layout.
        seed: the run's seed, which chooses the validation images.
        kind: which dataset.
        validation: fraction (float) or count (int) of the publisher's training images.
        pad: zero padding of the random crop, in pixels; 0 switches it off.
        flip: random horizontal flips.

    Raises:
        MissingDataError: the files are absent or damaged; says which command gets them.
        ValueError: an option is out of range.
    """
    source = _source(kind)
    augment = Augment(pad, flip)
    everything, test = _read(root, kind, train=True), _read(root, kind, train=False)
    mean, std = channel_statistics(everything.images)
    train, val = split_validation(everything.images, everything.labels, validation, seed)
    return ImageData(kind, source.shape.num_classes, train, val, test, mean, std, augment)


def shape(kind: Kind, **_options: object) -> ImageShape:
    """Return the shape of a dataset's images."""
    return _source(kind).shape


def prepare(root: Path, kind: Kind, **_options: object) -> str:
    """Download a dataset into ``root`` unless it is there; return what was done, in a line.

    Raises:
        MissingDataError: it cannot be downloaded; says which files to put where by hand.
        ValueError: ``kind`` is unknown.
    """
    source = _source(kind)
    where = root / source.folder
    try:
        _read(root, kind, train=False)
        _read(root, kind, train=True)
        return f"{kind}: already in {where}, nothing to do"
    except MissingDataError:
        print(f"{kind}: downloading with torchvision into {where}", flush=True)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _dataset_class(kind)(root, train=True, download=True)
    except _READ_ERRORS as error:
        archives = source.archives.replace("{root}", str(root))
        unpacked = where.is_dir() and any(path.suffix != ".gz" for path in where.iterdir())
        clear = f"delete the unpacked files in {where}, " if unpacked else ""
        raise MissingDataError(
            f"{kind}: cannot download ({_brief(error)}); by hand: {clear}put {archives} and "
            "run this command again"
        ) from error
    train, test = _read(root, kind, train=True), _read(root, kind, train=False)
    return f"{kind}: ready, {len(train)} training and {len(test)} test images in {where}"


def _source(kind: str) -> _Source:
    if kind not in _SOURCES:
        raise ValueError(f"kind={kind} is no dataset: choose one of {', '.join(_SOURCES)}")
    return _SOURCES[kind]


def _dataset_class(kind: str) -> Any:
    ensure_torchvision()
    import torchvision.datasets  # seconds, which digits runs do without

    return getattr(torchvision.datasets, _SOURCES[kind].class_name)


def _read(root: Path, kind: str, train: bool) -> Split:
    where = root / _SOURCES[kind].folder
    command = f"python -m bench.prepare dataset={kind} data_dir={shlex.quote(str(root))}"
    if not where.is_dir() or not any(where.iterdir()):
        raise MissingDataError(f"dataset {kind} is not in {root}: get it with: {command}")
    try:
        dataset = _dataset_class(kind)(root, train=train, download=False)
        images = torch.as_tensor(np.asarray(dataset.data))
        # Grey images come as [N, H, W], colour as [N, H, W, C].
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return Split(images.contiguous(), torch.as_tensor(dataset.targets).long())
    except _READ_ERRORS as error:
        raise MissingDataError(
            f"dataset {kind} in {where} is incomplete or damaged ({_brief(error)}): get it again "
            f"with: {command} (if that does not help, delete the folder first)"
        ) from error


def _brief(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
