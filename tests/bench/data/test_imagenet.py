"""ImageNet from small folders in the publisher's layout: listing, splits, crops, workers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.build import ImageShape
from bench.data.base import Data, MissingDataError
from bench.data.imagenet import load, prepare, shape
from bench.data.streaming import Epoch, ImageStream

WNIDS = ("n01440764", "n01443537", "n02099601")
OPTIONS: dict[str, Any] = {"image_size": 24, "num_classes": 3, "validation": 6, "workers": 0}


@pytest.fixture(scope="session")
def folders(imagenet_folders: Path) -> Path:
    return imagenet_folders


@pytest.fixture
def listed(folders: Path, tmp_path: Path) -> Path:
    """A data folder with the list."""
    prepare(tmp_path, folders)
    return tmp_path


def same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b)
        for pair, other in zip(first, second, strict=True)
        for a, b in zip(pair, other, strict=True)
    )


def test_prepare_lists_the_files_once(folders: Path, tmp_path: Path) -> None:
    said = prepare(tmp_path, folders, image_size=224)
    assert said == (
        f"imagenet: ready, 3 classes, 30 training and 9 test images in {folders}, listed in "
        f"{tmp_path / 'imagenet_files.pt'}"
    )
    assert "nothing to do" in prepare(tmp_path, folders)
    assert "nothing to do" in prepare(tmp_path)


def test_folders_in_the_data_folder_are_found(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "imagenet").symlink_to(folders)
    assert "3 classes" in prepare(tmp_path)


def test_shapes_and_splits(listed: Path) -> None:
    data = load(listed, 0, **OPTIONS)
    assert isinstance(data, ImageStream) and isinstance(data, Data)
    assert data.shape == ImageShape(3, 3, 24) == shape(image_size=24, num_classes=3)
    assert shape() == ImageShape(3, 1000, 224)
    assert data.origin is not None and "names sha256 " in data.origin
    assert [data.size(name) for name in ("train", "val", "test")] == [24, 6, 9]
    assert data.val.labels.bincount().tolist() == [2, 2, 2]
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    images, labels = next(data.train_batches(0, 0, 5))
    assert images.shape == (5, 3, 24, 24) and images.dtype == torch.float32
    assert labels.dtype == torch.int64


def test_each_file_is_in_one_split_with_the_class_of_its_folder(listed: Path) -> None:
    data = load(listed, 0, **OPTIONS)
    files = [*data.train.files, *data.val.files]  # type: ignore[attr-defined]
    assert len(set(files)) == 30
    for source in (data.train, data.val, data.test):
        for file, label in zip(source.files, source.labels, strict=True):  # type: ignore[attr-defined]
            assert file.split("/")[1] == WNIDS[label]
    other = load(listed, 1, **OPTIONS)
    assert data.val.files != other.val.files  # type: ignore[attr-defined]
    assert data.test.files == other.test.files  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [2, 4])
def test_batches_do_not_depend_on_the_number_of_workers(listed: Path, workers: int) -> None:
    alone, helped = load(listed, 0, **OPTIONS), load(listed, 0, **{**OPTIONS, "workers": workers})
    for start in (0, 2):
        expected = list(alone.train_batches(3, 1, 7, start))
        assert same(list(helped.train_batches(3, 1, 7, start)), expected)
    assert same(list(helped.eval_batches("test", 4)), list(alone.eval_batches("test", 4)))


def test_the_cut_depends_on_seed_epoch_and_sample_alone(listed: Path) -> None:
    source = load(listed, 0, **OPTIONS).train
    first = source.read([4, 9], Epoch(1, 2))
    assert torch.equal(first, source.read([9, 4], Epoch(1, 2)).flip(0))
    assert not torch.equal(first, source.read([4, 9], Epoch(1, 3)))
    assert not torch.equal(first, source.read([4, 9], Epoch(2, 2)))
    plain = source.read([4], None)
    assert torch.equal(plain, source.read([4], None))


def test_half_of_the_training_images_are_mirrored(listed: Path) -> None:
    flipped, plain = (load(listed, 0, **OPTIONS, flip=flip) for flip in (True, False))
    assert not plain.augment.flip
    mirrored = 0
    for epoch in range(10):
        both = [data.train_batches(0, epoch, 24) for data in (flipped, plain)]
        pairs = zip(*both, strict=True)
        for (images, _), (straight, _) in pairs:
            back = images.flip(3)
            mirrored += sum(torch.equal(a, b) for a, b in zip(back, straight, strict=True))
            assert all(
                torch.equal(a, b) or torch.equal(a.flip(2), b)
                for a, b in zip(images, straight, strict=True)
            )
    assert abs(mirrored / 240 - 0.5) < 0.16


def test_normalisation_is_that_of_pretrained_models(listed: Path) -> None:
    data = load(listed, 0, **OPTIONS)
    black = data.normalise(torch.zeros(1, 3, 24, 24, dtype=torch.uint8))[0, :, 0, 0]
    expected = -torch.tensor([0.485, 0.456, 0.406]) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(black, expected)


def test_another_number_of_classes_is_refused(listed: Path) -> None:
    with pytest.raises(ValueError, match=r"num_classes=1000, but .* has 3 classes, 30 training"):
        load(listed, 0, image_size=24)


def test_it_must_be_listed_first(tmp_path: Path) -> None:
    with pytest.raises(
        MissingDataError, match=r"spectral-bench prepare dataset=imagenet .* source=<the"
    ):
        load(tmp_path, 0, **OPTIONS)


def test_a_folder_that_has_gone_is_named(folders: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folders, tmp_path / "copy")
    prepare(tmp_path, copy)
    shutil.rmtree(copy)
    with pytest.raises(MissingDataError, match=r"copy, which .* lists, is gone"):
        load(tmp_path, 0, **OPTIONS)


def test_a_damaged_list_is_never_read(listed: Path) -> None:
    path = listed / "imagenet_files.pt"
    held = torch.load(path)
    torch.save({**held, "train": held["train"][1:]}, path)
    with pytest.raises(MissingDataError, match=r"damaged \(its checksum is wrong\)"):
        load(listed, 0, **OPTIONS)
    path.write_bytes(b"torn")
    with pytest.raises(MissingDataError, match="damaged"):
        load(listed, 0, **OPTIONS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda root: shutil.rmtree(root / "val"), r"val is not there: .* source=<the folder"),
        (lambda root: shutil.rmtree(root / "val" / WNIDS[1]), "different classes, such as n01443"),
        (lambda root: [shutil.rmtree(d) for d in (root / "val").iterdir()], "no folders of images"),
    ],
)
def test_folders_of_another_layout_are_refused(
    folders: Path, tmp_path: Path, change: Any, says: str
) -> None:
    copy = shutil.copytree(folders, tmp_path / "copy")
    change(copy)
    with pytest.raises(MissingDataError, match=says):
        prepare(tmp_path / "data", copy)
    assert not (tmp_path / "data").exists()  # neither the list nor a lock


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_decoded_is_named(
    folders: Path, tmp_path: Path, workers: int
) -> None:
    copy = shutil.copytree(folders, tmp_path / "copy")
    victim = copy / "val" / WNIDS[0] / "ILSVRC2012_val_00000000.JPEG"
    victim.write_bytes(victim.read_bytes()[:300])
    prepare(tmp_path, copy)
    data = load(tmp_path, 0, **{**OPTIONS, "workers": workers})
    with pytest.raises(ValueError, match=r"ILSVRC2012_val_00000000.JPEG cannot be read"):
        list(data.eval_batches("test", 9))


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size=0 and num_classes=1000 must be 1 or more"):
        shape(image_size=0)
