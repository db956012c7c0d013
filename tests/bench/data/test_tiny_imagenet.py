"""Tiny-ImageNet from a small copy in the publisher's exact layout, packed and unpacked."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench.build import ImageShape
from bench.data import tiny_imagenet
from bench.data.base import MissingDataError
from bench.data.images import Augment
from bench.data.tiny_imagenet import load, prepare, shape

WNIDS = [f"n{k:08d}" for k in range(200)]


@pytest.fixture(scope="session")
def copy(tiny_imagenet_files: Path) -> Path:
    return tiny_imagenet_files


def pack(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder.parent))
    return archive


def test_labels_and_pixels_are_those_of_the_files(copy: Path, tmp_path: Path) -> None:
    said = prepare(tmp_path, copy.parent)
    assert "ready, 400 training and 30 test images" in said and f"(from {copy};" in said
    data = load(tmp_path, 0)
    assert data.shape == ImageShape(3, 200, 64) == shape(validation=0.2)
    assert data.augment == Augment(pad=8, flip=True)
    assert (len(data.train), len(data.val)) == (360, 40)
    everything = torch.cat([data.train.images, data.val.images])
    labels = torch.cat([data.train.labels, data.val.labels])
    assert labels.bincount().tolist() == [2] * 200
    grey = torch.tensor([k for k in range(400) if labels[k] == 5])
    colour = torch.ones(400, dtype=torch.bool).index_fill(0, grey, False)
    red = everything[colour, 0].double().mean(dim=(1, 2))
    assert (red - labels[colour]).abs().max() < 3
    # One of the two is grey: three equal channels.
    spread = (everything[grey, 0].int() - everything[grey, 2].int()).abs().amax(dim=(1, 2))
    assert (spread == 0).tolist().count(True) == 1
    # val_annotations.txt, not the order of files, gives the test labels.
    assert data.test.labels.bincount(minlength=200).nonzero().flatten().tolist() == sorted(
        {7 * k % 200 for k in range(30)}
    )
    test_red = data.test.images[:, 0].double().mean(dim=(1, 2))
    assert (test_red - data.test.labels).abs().max() < 3


def test_zip_and_folder_give_the_same(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    archive = pack(copy, tmp_path / "a" / "tiny-imagenet-200.zip")
    digests = {
        prepare(tmp_path / f"out{k}", source).rpartition("sha256 ")[2]
        for k, source in enumerate([copy, copy.parent, archive, archive.parent])
    }
    assert len(digests) == 1
    assert "ready" in prepare(tmp_path / "a")  # found in the data folder itself
    assert "already" in prepare(tmp_path / "a")


def test_it_is_downloaded_where_it_is_not(
    copy: Path,
    tmp_path: Path,
    serve: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive = pack(copy, tmp_path / "tiny-imagenet-200.zip")
    monkeypatch.setattr(tiny_imagenet, "_URL", serve(tmp_path) + archive.name)
    (tmp_path / "wrong").mkdir()
    with pytest.raises(MissingDataError, match=r"cannot download .* by hand: put .* into"):
        prepare(tmp_path / "wrong")  # the published checksum is another
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(tiny_imagenet, "_MD5", digest)
    assert "ready, 400 training" in prepare(tmp_path / "right")


def test_a_source_without_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"holds neither tiny-imagenet-200/ nor"):
        prepare(tmp_path / "data", tmp_path)


@pytest.mark.parametrize("damage", ["image", "annotations", "classes", "size", "class", "zip"])
def test_damaged_files_are_named_with_the_remedy(copy: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(copy, tmp_path / "tiny-imagenet-200")
    image = folder / "train" / WNIDS[3] / "images" / f"{WNIDS[3]}_0.JPEG"
    if damage == "image":
        image.write_bytes(image.read_bytes()[:200])
    elif damage == "annotations":
        (folder / "val" / "val_annotations.txt").unlink()
    elif damage == "classes":
        (folder / "wnids.txt").write_text("n00000000\n")
    elif damage == "size":
        Image.new("RGB", (32, 64)).save(image, "JPEG")
    elif damage == "class":
        shutil.rmtree(folder / "train" / WNIDS[199])
    else:
        archive = pack(folder, tmp_path / "tiny-imagenet-200.zip")
        archive.write_bytes(archive.read_bytes()[:-5000])
        shutil.rmtree(folder)
    with pytest.raises(MissingDataError, match="is incomplete or damaged") as caught:
        prepare(tmp_path)
    assert str(tmp_path / "tiny-imagenet-200") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_needs_it_prepared(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"spectral-bench prepare dataset=tiny_imagenet"):
        load(tmp_path, 0)
