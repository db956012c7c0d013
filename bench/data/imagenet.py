"""ImageNet-1K from folders: ``train/<wnid>/*.JPEG`` and ``val/<wnid>/*.JPEG``, streamed.

``prepare`` lists the 1.3 million files once; nothing is converted. The publisher's ``val`` is the
test split; validation images are taken out of ``train`` by the run's seed. Class k is the k-th
wnid, sorted, as in torchvision's pretrained models. Photographs are cut to a square as is usual for
training and evaluation; the random cut is a pure function of a sample's random words.
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.build import ImageShape
from bench.data import prepared
from bench.data.base import MissingDataError, below, random_words, uniform
from bench.data.images import Augment, held_out_count, stratified
from bench.data.prepared import brief
from bench.data.streaming import Epoch, ImageStream
from bench.files import write_atomically
from bench.seeding import generator

if TYPE_CHECKING:
    from PIL.Image import Image


_ATTEMPTS = 10
WORDS = 2 * _ATTEMPTS + 2  # a sample
_SCALE = (0.08, 1.0)  # share of the area
_RATIO = (3 / 4, 4 / 3)  # width by height
_EVALUATION = 256 / 224  # shorter side, in units of the square

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


def random_box(width: int, height: int, words: Tensor) -> Box:
    """Return the part of an image that a random resized crop takes (Szegedy et al. 2015).

    Area and aspect ratio are drawn up to ten times, until the part fits; then its place. If none
    fits, it is the largest central part of an allowed ratio. As torchvision's RandomResizedCrop.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        words: int64 [WORDS] in [0, 2^32).
    """
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    numbers = uniform(words[:-2]).reshape(_ATTEMPTS, 2).tolist()
    for area, ratio in numbers:
        target = width * height * (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * area)
        aspect = math.exp(low + (high - low) * ratio)
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(below(words[-2], width - w + 1))
            top = int(below(words[-1], height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(round(height * _RATIO[0]), min(width, round(height * _RATIO[1]))))
    h = min(height, round(w / _RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def cut(image: Image, box: Box, size: int) -> Tensor:
    """Return the part ``box`` of an RGB image, resized bilinearly: uint8 [3, size, size]."""
    from PIL.Image import Resampling

    return _tensor(image.crop(box).resize((size, size), Resampling.BILINEAR))


def centre(image: Image, size: int) -> Tensor:
    """Return the centre of an RGB image whose shorter side becomes 256/224 of ``size``."""
    from PIL.Image import Resampling

    short = int(size * _EVALUATION)
    width, height = image.size
    if width <= height:
        scaled = (short, int(short * height / width))
    else:
        scaled = (int(short * width / height), short)
    image = image.resize(scaled, Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in image.size)
    return _tensor(image.crop((left, top, left + size, top + size)))


def _tensor(image: Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


NAME = "imagenet"
_FORMAT = 1
_ENDINGS = (".jpeg", ".jpg", ".png")
# Of ImageNet's training images, as every pretrained model of torchvision uses them.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def shape(image_size: int = 224, num_classes: int = 1000, **_options: object) -> ImageShape:
    """Return the shape of the cut images.

    Raises:
        ValueError: a size is below 1.
    """
    if min(image_size, num_classes) < 1:
        raise ValueError(f"image_size={image_size} and num_classes={num_classes} must be 1 or more")
    return ImageShape(3, num_classes, image_size)


class Photographs(NamedTuple):
    """Image files of any size as a source: ``files`` relative to ``folder``."""

    folder: str
    files: tuple[str, ...]
    labels: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: list[int], epoch: Epoch | None) -> Tensor:
        """Return the images, uint8 [B, 3, size, size]: a random part each, or the centre.

        Raises:
            ValueError: a file cannot be decoded.
        """
        out = torch.empty((len(index), 3, self.size, self.size), dtype=torch.uint8)
        words = None
        if epoch is not None:
            place = torch.tensor(index)
            words = random_words(place, WORDS, epoch.seed, "crop", epoch.number)
        for row, number in enumerate(index):
            out[row] = self._cut(self.files[number], None if words is None else words[row])
        return out

    def _cut(self, file: str, words: Tensor | None) -> Tensor:
        from PIL import Image

        try:
            with Image.open(Path(self.folder, file)) as opened:
                image = opened.convert("RGB")  # a few are grey or CMYK
        except OSError as error:
            raise ValueError(f"{self.folder}/{file} cannot be read ({brief(error)})") from error
        if words is None:
            return centre(image, self.size)
        return cut(image, random_box(*image.size, words), self.size)


class _Listing(NamedTuple):
    """Files of the two folders, relative to ``folder`` and sorted, and all wnids, sorted."""

    folder: str
    wnids: tuple[str, ...]
    train: tuple[str, ...]
    val: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the names of all files."""
        text = "\n".join((*self.wnids, "", *self.train, "", *self.val))
        return hashlib.sha256(text.encode()).hexdigest()

    def photographs(self, files: tuple[str, ...], size: int) -> Photographs:
        """Return files with the classes of their folders."""
        classes = {wnid: k for k, wnid in enumerate(self.wnids)}
        labels = torch.tensor([classes[file.split("/")[1]] for file in files])
        return Photographs(self.folder, files, labels, size)


def load(
    root: Path,
    seed: int,
    *,
    validation: int | float = 10_000,
    image_size: int = 224,
    num_classes: int = 1000,
    flip: bool = True,
    workers: int = 8,
) -> ImageStream:
    """Return the dataset as listed by ``prepare``; its test split is the publisher's ``val``.

    Args:
        root: the data folder, which holds the list.
        seed: the run's seed, which chooses the validation images.
        validation: fraction (float) or count (int) of the publisher's training images.
        image_size: side of the images that the network sees.
        num_classes: how many folders ``train`` has; a subset of ImageNet has fewer.
        flip: random horizontal flips.
        workers: processes that decode; changes nothing in the result.

    Raises:
        MissingDataError: there is no list, or it is damaged (the message has the command).
        ValueError: an option is out of range.
    """
    given = shape(image_size, num_classes)
    listing = _read(root)
    if len(listing.wnids) != num_classes:
        raise ValueError(f"num_classes={num_classes}, but {listing.folder} has {_counts(listing)}")
    everything = listing.photographs(listing.train, image_size)
    count = held_out_count(validation, len(everything))
    held = stratified(everything.labels, count, generator(seed, "validation"))
    train, val = (
        listing.photographs(_chosen(listing.train, mask), image_size) for mask in (~held, held)
    )
    test = listing.photographs(listing.val, image_size)
    augment = Augment(flip=flip)
    return ImageStream(
        NAME,
        given,
        train,
        val,
        test,
        _MEAN,
        _STD,
        augment=augment,
        workers=workers,
        origin=f"{listing.folder}, names sha256 {listing.digest}",
    )


def _chosen(files: tuple[str, ...], mask: Tensor) -> tuple[str, ...]:
    return tuple(files[place] for place in mask.nonzero().flatten().tolist())


def prepare(root: Path, source: Path | None = None, **_options: object) -> str:
    """List the files of ImageNet unless that is done; return what was done, in a line.

    Args:
        root: the data folder; the list goes there, and the images may lie in its ``imagenet/``.
        source: the folder that holds ``train/`` and ``val/``, where it is another.

    Raises:
        MissingDataError: no folders, or not sorted by wnid (the message has the remedy).
    """
    path = _path(root)

    def store() -> str:
        listing = _list(source or root / NAME)
        held = {"format": _FORMAT, "digest": listing.digest, **listing._asdict()}
        write_atomically(path, lambda stream: torch.save(held, stream))
        return f"{NAME}: ready, {_counts(listing)} in {listing.folder}, listed in {path}"

    return prepared.once(path, NAME, lambda: _is_listed(path), store)


def _path(root: Path) -> Path:
    return root / f"{NAME}_files.pt"


def _counts(listing: _Listing) -> str:
    return (
        f"{len(listing.wnids)} classes, {len(listing.train)} training and {len(listing.val)} "
        "test images"
    )


def _read(root: Path) -> _Listing:
    path, command = _path(root), prepared.command(root, NAME)
    if not path.is_file():
        raise MissingDataError(
            f"dataset {NAME} is not listed in {root}: {command} source=<the folder of train/ and "
            "val/>"
        )
    try:
        held = torch.load(path, weights_only=True)
        listing = _Listing(*(held[field] for field in _Listing._fields))
        if held["format"] != _FORMAT or held["digest"] != listing.digest:
            raise ValueError("its checksum is wrong")
    except Exception as error:  # a damaged file fails in many ways; all mean "make it again"
        raise MissingDataError(
            f"{path} is damaged ({brief(error)}): delete it and make it again with: {command}"
        ) from error
    if not Path(listing.folder).is_dir():
        raise MissingDataError(
            f"{listing.folder}, which {path} lists, is gone: delete the list and make it again "
            f"with: {command} source=<the folder>"
        )
    return listing


def _is_listed(path: Path) -> bool:
    try:
        return path.is_file() and torch.load(path, weights_only=True)["format"] == _FORMAT
    except Exception:
        return False


def _list(folder: Path) -> _Listing:
    files = {}
    for split in ("train", "val"):
        where = folder / split
        if not where.is_dir():
            raise MissingDataError(
                f"{NAME}: {where} is not there: ImageNet cannot be downloaded without an account "
                "(https://image-net.org); name its folder: source=<the folder of train/ and val/>"
            )
        files[split] = {
            entry.name: sorted(_images(entry.path)) for entry in os.scandir(where) if entry.is_dir()
        }
        if not any(files[split].values()):
            raise MissingDataError(
                f"{NAME}: {where} has no folders of images: sort the images into one folder a "
                "class, named by its wnid"
            )
    differing = sorted(set(files["train"]) ^ set(files["val"]))
    if differing:
        raise MissingDataError(
            f"{NAME}: train/ and val/ of {folder} have different classes, such as {differing[0]}"
        )
    wnids = tuple(sorted(files["train"]))
    train, val = (
        tuple(f"{split}/{wnid}/{name}" for wnid in wnids for name in files[split][wnid])
        for split in ("train", "val")
    )
    return _Listing(str(folder.resolve()), wnids, train, val)


def _images(folder: str) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(_ENDINGS)]
