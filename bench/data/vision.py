"""FashionMNIST, CIFAR-10 and CIFAR-100, read by torchvision's classes.

A run only reads what ``prepare`` made of them (``spectral-bench prepare``). That finds files
which are already on the machine, and downloads where there are none.
"""

from __future__ import annotations

import dataclasses
import gzip
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from bench.build import ImageShape
from bench.compat import ensure_torchvision
from bench.data import prepared
from bench.data.base import MissingDataError
from bench.data.images import Augment, ImageData, Split, channel_statistics, split_validation
from bench.data.prepared import Prepared, brief

Kind: TypeAlias = Literal["fashion_mnist", "cifar10", "cifar100"]


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where a dataset is found.

    ``folder`` is where torchvision keeps it; ``archives`` what is fetched, from and to where;
    ``packaged`` is a folder of .gz files that a system package brings; ``digest`` the checksum of
    the published images and labels, where torchvision does not check files itself.
    """

    class_name: str
    shape: ImageShape
    folder: str
    archives: str
    packaged: str | None = None
    digest: str | None = None


_SOURCES: dict[str, _Source] = {
    "fashion_mnist": _Source(
        "FashionMNIST",
        ImageShape(1, 10, 28),
        "FashionMNIST/raw",
        "{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz (four files) from "
        "https://github.com/zalandoresearch/fashion-mnist into {root}/FashionMNIST/raw, or install "
        "Debian's package dataset-fashion-mnist,",
        "/usr/share/datasets/fashion-mnist",
        "c2df23e9d135ade7af62bf6273886728f606f79e67e066d2485f52ee9d597534",
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


def shape(kind: Kind, **_options: object) -> ImageShape:
    """Return the shape of a dataset's images."""
    return _source(kind).shape


def load(
    root: Path,
    seed: int,
    *,
    kind: Kind,
    validation: int | float = 0.1,
    pad: int = 0,
    flip: bool = False,
) -> ImageData:
    """Return one of the datasets, as prepared in ``root``; its test split is the publisher's.

    Args:
        root: the data folder.
        seed: the run's seed, which chooses the validation images.
        kind: which dataset.
        validation: fraction (float) or count (int) of the publisher's training images.
        pad: zero padding of the random crop, in pixels; 0 switches it off.
        flip: random horizontal flips.

    Raises:
        MissingDataError: it is not prepared, or damaged; says which command prepares it.
        ValueError: an option is out of range.
    """
    classes = _source(kind).shape.num_classes
    augment = Augment(pad, flip)
    held = prepared.read(root, kind)
    everything, test = held.train, held.test
    mean, std = channel_statistics(everything.images)
    train, val = split_validation(everything.images, everything.labels, validation, seed)
    return ImageData(kind, classes, train, val, test, mean, std, augment, held.origin)


def prepare(root: Path, kind: Kind, source: Path | None = None, **_options: object) -> str:
    """Convert a dataset into ``root`` unless it is there; return what was done, in a line.

    Looked at in turn: ``source`` alone if it is given; else ``root`` in torchvision's layout and
    the folder of a system package; else it is downloaded into ``root``.

    Raises:
        MissingDataError: it cannot be had, or is damaged; says what to do.
        ValueError: ``kind`` is unknown.
    """
    _source(kind)
    return prepared.make(root, kind, lambda: _get(root, kind, source))


def _get(root: Path, kind: str, source: Path | None) -> Prepared:
    if source is not None:
        given = _read(source, kind)
        if given is None:
            raise MissingDataError(
                f"{kind}: {source} holds no {_source(kind).folder} in torchvision's layout"
            )
        return given
    for folder in (str(root), _source(kind).packaged):
        with suppress(MissingDataError):  # damaged, which a download mends or says
            found = None if folder is None else _read(Path(folder), kind)
            if found is not None:
                return found
    _download(root, kind)
    downloaded = _read(root, kind)
    assert downloaded is not None
    return downloaded


def _download(root: Path, kind: str) -> None:
    where = root / _source(kind).folder
    print(f"{kind}: downloading with torchvision into {where}", flush=True)
    try:
        _dataset_class(kind)(root, train=True, download=True)
    except _READ_ERRORS as error:
        archives = _source(kind).archives.replace("{root}", str(root))
        raise MissingDataError(
            f"{kind}: cannot download ({brief(error)}); by hand: put {archives} and run this "
            "command again"
        ) from error


def _read(folder: Path, kind: str) -> Prepared | None:
    """Return the dataset of a folder, None where there is no sign of it."""
    place = folder / _source(kind).folder
    for where in (place, folder):  # the user may name either; packages have no subfolder
        if _packed(where):
            with tempfile.TemporaryDirectory() as unpacked:
                _unpack(where, Path(unpacked) / _source(kind).folder)
                return _parsed(Path(unpacked), kind, where)
    return _parsed(folder, kind, place) if place.is_dir() and any(place.iterdir()) else None


def _packed(folder: Path) -> list[Path]:
    """Return the four IDX files of a folder if all are there, packed and not unpacked."""
    found = sorted(folder.glob("*-ubyte.gz"))
    whole = len(found) == 4 and not any(path.with_suffix("").exists() for path in found)
    return found if whole else []


def _unpack(packed: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in _packed(packed):
        try:
            folder.joinpath(path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        except (OSError, EOFError) as error:
            raise MissingDataError(
                f"{path} is damaged ({brief(error)}): delete it and run this command again"
            ) from error


def _parsed(folder: Path, kind: str, where: Path) -> Prepared:
    try:
        train, test = _splits(folder, kind)
        found = Prepared(train, test, str(where))
        if _source(kind).digest not in (None, found.digest):
            raise ValueError(f"these are not the published images: sha256 {found.digest[:16]}")
    except _READ_ERRORS as error:
        raise MissingDataError(
            f"{kind}: {where} is incomplete or damaged ({brief(error)}): delete the folder and run "
            "this command again"
        ) from error
    return found


def _splits(folder: Path, kind: str) -> Iterator[Split]:
    for train in (True, False):
        dataset = _dataset_class(kind)(folder, train=train, download=False)
        images = torch.as_tensor(np.asarray(dataset.data))
        # Grey images come as [N, H, W], colour as [N, H, W, C].
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        yield Split(images.contiguous(), torch.as_tensor(dataset.targets).long())


def _source(kind: str) -> _Source:
    if kind not in _SOURCES:
        raise ValueError(f"kind={kind} is no dataset: choose one of {', '.join(_SOURCES)}")
    return _SOURCES[kind]


def _dataset_class(kind: str) -> Any:
    ensure_torchvision()
    import torchvision.datasets  # seconds, which digits runs do without

    return getattr(torchvision.datasets, _source(kind).class_name)
