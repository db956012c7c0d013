"""Tiny-ImageNet-200 (Stanford CS231n): 200 classes, 500 training images of 64x64 pixels each.

Read from the publisher's zip, packed or unpacked: ``train/<wnid>/images/*.JPEG``, and the 10,000
labelled images of ``val/`` with ``val/val_annotations.txt``, which are the test split here. The
images of ``test/`` have no published labels and are not used. Class k is the k-th wnid, sorted.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from bench.build import ImageShape
from bench.compat import ensure_torchvision
from bench.data import prepared
from bench.data.base import MissingDataError
from bench.data.images import Augment, ImageData, Split, channel_statistics, split_validation
from bench.data.prepared import Prepared, brief

NAME = "tiny_imagenet"
_SHAPE = ImageShape(in_channels=3, num_classes=200, image_size=64)
_FOLDER = "tiny-imagenet-200"
_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def shape(**_options: object) -> ImageShape:
    """Return the shape of the images."""
    return _SHAPE


def load(
    root: Path,
    seed: int,
    *,
    validation: int | float = 0.1,
    pad: int = 8,
    flip: bool = True,
) -> ImageData:
    """Return the dataset as prepared in ``root``; its test split is the publisher's ``val``.

    Args:
        root: the data folder.
        seed: the run's seed, which chooses the validation images.
        validation: fraction (float) or count (int) of the publisher's training images.
        pad: zero padding of the random crop, in pixels; 0 switches it off.
        flip: random horizontal flips.

    Raises:
        MissingDataError: it is not prepared, or damaged (the message has the command).
        ValueError: an option is out of range.
    """
    augment = Augment(pad, flip)
    held = prepared.read(root, NAME)
    everything, test = held.train, held.test
    mean, std = channel_statistics(everything.images)
    train, val = split_validation(everything.images, everything.labels, validation, seed)
    return ImageData(NAME, _SHAPE.num_classes, train, val, test, mean, std, augment, held.origin)


def prepare(root: Path, source: Path | None = None, **_options: object) -> str:
    """Convert the dataset into ``root`` unless it is there; return what was done, in a line.

    Args:
        root: the data folder; a zip or an unpacked folder in it is used, else the zip downloaded.
        source: the zip, or a folder that holds it packed or unpacked, to be used instead.

    Raises:
        MissingDataError: it cannot be had, or is damaged (the message has the remedy).
    """
    return prepared.make(root, NAME, lambda: _get(root, source))


def _get(root: Path, source: Path | None) -> Prepared:
    origin = _find(source or root)
    if origin is None and source is not None:
        raise MissingDataError(f"{NAME}: {source} holds neither {_FOLDER}/ nor {_FOLDER}.zip")
    origin = origin or _download(root)
    try:
        train, test = _read(origin)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise MissingDataError(
            f"{NAME}: {origin} is incomplete or damaged ({brief(error)}): delete it and run this "
            "command again"
        ) from error
    return Prepared(train, test, str(origin))


def _find(where: Path) -> Path | None:
    candidates = [where / _FOLDER, where / f"{_FOLDER}.zip", where]
    usable = (path for path in candidates if (path / "wnids.txt").is_file() or _is_zip(path))
    return next(usable, None)


def _is_zip(path: Path) -> bool:
    return path.suffix == ".zip" and path.is_file()


def _download(root: Path) -> Path:
    ensure_torchvision()
    from torchvision.datasets.utils import download_url

    print(f"{NAME}: downloading {_URL} (248 MB) into {root}", flush=True)
    try:
        download_url(_URL, str(root), md5=_MD5)
    except (OSError, RuntimeError) as error:
        raise MissingDataError(
            f"{NAME}: cannot download ({brief(error)}); by hand: put {_URL} into {root} and run "
            "this command again"
        ) from error
    return root / f"{_FOLDER}.zip"


def _read(where: Path) -> tuple[Split, Split]:
    """Return the training images and the publisher's validation images."""
    if where.is_dir():
        names = [path.relative_to(where).as_posix() for path in where.rglob("*")]
        return _decode(names, lambda name: where.joinpath(name).read_bytes())
    with zipfile.ZipFile(where) as archive:
        inside = {name.partition("/")[2]: name for name in archive.namelist()}
        return _decode(list(inside), lambda name: archive.read(inside[name]))


def _decode(names: list[str], read: Callable[[str], bytes]) -> tuple[Split, Split]:
    classes = {wnid: k for k, wnid in enumerate(sorted(read("wnids.txt").decode().split()))}
    if len(classes) != _SHAPE.num_classes:
        raise ValueError(f"wnids.txt lists {len(classes)} classes instead of 200")
    train = {name: classes[name.split("/")[1]] for name in sorted(names) if _is_training(name)}
    if set(train.values()) != set(classes.values()):
        raise ValueError(f"train/ has images of {len(set(train.values()))} of the 200 classes")
    rows = [line.split("\t") for line in read("val/val_annotations.txt").decode().splitlines()]
    test = {f"val/images/{row[0]}": classes[row[1]] for row in sorted(rows)}
    return _images(train, read), _images(test, read)


def _is_training(name: str) -> bool:
    path = PurePosixPath(name)
    return path.match("train/*/images/*.JPEG") and len(path.parts) == 4


def _images(labels: dict[str, int], read: Callable[[str], bytes]) -> Split:
    from PIL import Image

    side = _SHAPE.image_size
    images = torch.empty((len(labels), 3, side, side), dtype=torch.uint8)

    def decode(place: int, name: str) -> None:
        with Image.open(io.BytesIO(read(name))) as image:
            if image.size != (side, side):
                raise ValueError(f"{name} has {image.size} pixels instead of 64x64")
            pixels = np.asarray(image.convert("RGB"))  # some are grey
        images[place] = torch.from_numpy(pixels.copy()).permute(2, 0, 1)

    with ThreadPoolExecutor() as pool:  # the decoder runs outside of Python's lock
        for _ in pool.map(decode, range(len(labels)), labels):
            pass
    return Split(images, torch.tensor(list(labels.values())))
