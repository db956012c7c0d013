"""torchvision's datasets through our loader, from tiny files in the exact layout."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.build import ImageShape
from bench.data import prepared, vision
from bench.data.base import MissingDataError
from bench.data.images import Augment, ImageData, Split
from bench.data.vision import load, prepare, shape


def as_pairs(split: Split) -> list[tuple[bytes, int]]:
    return [
        (image.numpy().tobytes(), int(label))
        for image, label in zip(split.images, split.labels, strict=True)
    ]


def expected_pairs(arrays: tuple[np.ndarray, np.ndarray]) -> list[tuple[bytes, int]]:
    return [(image.tobytes(), int(label)) for image, label in zip(*arrays, strict=True)]


def largest_file(folder: Path) -> Path:
    unpacked = (path for path in folder.iterdir() if path.suffix != ".gz")
    return max(unpacked, key=lambda path: path.stat().st_size)


def test_images_labels_and_shapes(tiny: Any, tmp_path: Path) -> None:
    tiny.ready(tmp_path)
    data = load(tmp_path, 0, kind=tiny.kind)
    assert isinstance(data, ImageData) and data.name == tiny.kind
    assert data.shape == ImageShape(tiny.channels, tiny.classes, tiny.size)
    assert shape(kind=tiny.kind, pad=3) == data.shape
    assert data.num_classes == tiny.classes
    assert (len(data.train), len(data.val), len(data.test)) == (180, 20, 100)
    assert as_pairs(data.test) == expected_pairs(tiny.test)
    both = as_pairs(data.train) + as_pairs(data.val)
    assert sorted(both) == sorted(expected_pairs(tiny.train))
    assert data.train.images.is_contiguous()
    held = prepared.read(tmp_path, tiny.kind)
    assert data.origin == f"{tmp_path / tiny.sub}, sha256 {held.digest}"


def test_statistics_are_of_all_training_images(tiny: Any, tmp_path: Path) -> None:
    tiny.ready(tmp_path)
    first, second = (load(tmp_path, seed, kind=tiny.kind) for seed in (0, 1))
    pixels = tiny.train[0].astype(np.float64) / 255
    np.testing.assert_allclose(first.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(first.std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)
    assert (first.mean, first.std) == (second.mean, second.std)
    assert not torch.equal(first.val.images, second.val.images)
    assert torch.equal(first.test.images, second.test.images)


def test_options(tiny: Any, tmp_path: Path) -> None:
    tiny.ready(tmp_path)
    data = load(tmp_path, 0, kind=tiny.kind, validation=50, pad=4, flip=True)
    assert len(data.val) == 50 and data.augment == Augment(pad=4, flip=True)
    with pytest.raises(ValueError, match="out of 200 images"):
        load(tmp_path, 0, kind=tiny.kind, validation=200)


def test_missing_dataset_gives_the_command(tiny: Any, tmp_path: Path) -> None:
    root = tmp_path / "my data"
    with pytest.raises(MissingDataError) as caught:
        load(root, 0, kind=tiny.kind)
    command = f"spectral-bench prepare dataset={tiny.kind} data_dir='{root}'"
    assert command in str(caught.value) and "\n" not in str(caught.value)
    assert not root.exists()


def test_prepare_finds_a_torchvision_folder(
    offline: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = offline.install(tmp_path)
    said = prepare(tmp_path, kind=offline.kind, validation=0.1, pad=4, flip=True)
    made = tmp_path / f"{offline.kind}.pt"
    assert said.startswith(f"{offline.kind}: ready, 200 training and 100 test images in {made} ")
    assert f"from {where}" in said
    assert capsys.readouterr().out == ""
    again = prepare(tmp_path, kind=offline.kind)
    assert again == f"{offline.kind}: already in {made}, nothing to do"


@pytest.mark.parametrize("inner", [False, True])
def test_prepare_takes_a_folder_elsewhere(offline: Any, tmp_path: Path, inner: bool) -> None:
    where = offline.install(tmp_path / "elsewhere")
    if inner and offline.kind != "fashion_mnist":
        pytest.skip("torchvision is given the folder above")
    source = where if inner else tmp_path / "elsewhere"
    if inner:
        for path in where.glob("*-ubyte"):  # as a system package has them: packed, side by side
            path.unlink()
    assert f"(from {where}" in prepare(tmp_path / "data", offline.kind, source)
    data = load(tmp_path / "data", 0, kind=offline.kind)
    assert as_pairs(data.test) == expected_pairs(offline.test)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [f"{offline.kind}.pt"]


def test_a_source_without_the_dataset_is_refused(offline: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"holds no .* in torchvision's layout"):
        prepare(tmp_path, offline.kind, tmp_path)


def test_prepare_finds_a_system_package(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tiny.kind != "fashion_mnist":
        pytest.skip("no package has it")
    packaged = dataclasses.replace(vision._SOURCES[tiny.kind], packaged=str(tiny.source))
    monkeypatch.setitem(vision._SOURCES, tiny.kind, packaged)
    assert f"(from {tiny.source}" in prepare(tmp_path, tiny.kind)
    data = load(tmp_path, 0, kind=tiny.kind)
    assert as_pairs(data.test) == expected_pairs(tiny.test)
    victim = tiny.source / "t10k-labels-idx1-ubyte.gz"
    victim.write_bytes(victim.read_bytes()[:-9])
    with pytest.raises(MissingDataError, match=r"t10k-labels-idx1-ubyte.gz is damaged .* delete"):
        prepare(tmp_path / "again", tiny.kind, tiny.source)


def test_images_that_are_not_the_published_ones_are_refused(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.ready(tmp_path)
    digest = prepared.read(tmp_path, tiny.kind).digest
    for expected, refused in ((digest, False), (digest[::-1], True)):
        source = dataclasses.replace(vision._SOURCES[tiny.kind], digest=expected)
        monkeypatch.setitem(vision._SOURCES, tiny.kind, source)
        (tmp_path / f"{tiny.kind}.pt").unlink()
        if not refused:
            prepare(tmp_path, tiny.kind, tmp_path)
            continue
        with pytest.raises(MissingDataError, match="these are not the published images"):
            prepare(tmp_path, tiny.kind, tmp_path)


def test_the_real_package_where_it_is_installed(tmp_path: Path) -> None:
    packaged = vision._SOURCES["fashion_mnist"].packaged
    assert packaged is not None
    if not Path(packaged).is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    assert "60000 training and 10000 test images" in prepare(tmp_path, "fashion_mnist")
    data = load(tmp_path, 0, kind="fashion_mnist")
    assert data.mean == pytest.approx((0.2860,), abs=5e-5)  # as published everywhere
    assert data.std == pytest.approx((0.3530,), abs=5e-5)


@pytest.mark.parametrize("damage", ["truncated", "empty", "removed"])
def test_damaged_files_are_named_with_the_remedy(offline: Any, tmp_path: Path, damage: str) -> None:
    where = offline.install(tmp_path / "given")
    victim = largest_file(where)
    if damage == "removed":
        victim.unlink()
    else:
        content = victim.read_bytes()
        victim.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(MissingDataError, match="incomplete or damaged") as caught:
        prepare(tmp_path, offline.kind, tmp_path / "given")
    message = str(caught.value)
    assert str(where) in message and "delete the folder" in message
    assert "\n" not in message
    assert not (tmp_path / f"{offline.kind}.pt").exists()


def test_prepare_downloads_then_says_it_is_there(
    served: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new" / "data"
    said = prepare(root, kind=served.kind)
    assert said.startswith(f"{served.kind}: ready, 200 training and 100 test images in {root}")
    printed = capsys.readouterr().out
    assert f"{served.kind}: downloading" in printed and str(root) in printed
    assert as_pairs(load(root, 0, kind=served.kind).test) == expected_pairs(served.test)
    again = prepare(root, kind=served.kind)
    assert "already" in again and str(root) in again
    assert "downloading" not in capsys.readouterr().out


def test_prepare_repairs_what_is_missing(served: Any, tmp_path: Path) -> None:
    largest_file(served.install(tmp_path)).unlink()
    assert "ready" in prepare(tmp_path, kind=served.kind)


def test_what_torchvision_does_not_repair_is_said(offline: Any, tmp_path: Path) -> None:
    """It calls a dataset complete despite a cut IDX file, or CIFAR's missing class names."""
    where = offline.install(tmp_path)
    if offline.kind == "fashion_mnist":
        largest_file(where).write_bytes(b"cut short")
    else:
        (where / offline.klass.meta["filename"]).unlink()
    with pytest.raises(MissingDataError, match=r"delete the folder|cannot download") as caught:
        prepare(tmp_path, kind=offline.kind)
    assert str(tmp_path) in str(caught.value)


def test_without_network_prepare_says_what_to_put_where(offline: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        prepare(tmp_path, kind=offline.kind)
    message = str(caught.value)
    assert "cannot download" in message and "refused" in message and "\n" not in message
    assert "https://" in message and f"into {tmp_path}" in message


def test_files_put_there_by_hand_are_unpacked_without_network(offline: Any, tmp_path: Path) -> None:
    fashion = offline.kind == "fashion_mnist"
    target = tmp_path / offline.sub if fashion else tmp_path
    target.mkdir(parents=True, exist_ok=True)
    for path in offline.server_root.glob("*.gz"):
        (target / path.name).write_bytes(path.read_bytes())
    assert "ready" in prepare(tmp_path, kind=offline.kind)
    assert len(load(tmp_path, 0, kind=offline.kind).train) == 180


@pytest.mark.parametrize(
    "function", [lambda k: load(Path(), 0, kind=k), lambda k: prepare(Path(), k)]
)
def test_unknown_kind_lists_the_choices(function: Any) -> None:
    with pytest.raises(ValueError, match=r"kind=svhn.*fashion_mnist, cifar10, cifar100"):
        function("svhn")


def test_importing_the_loaders_does_not_import_torchvision_or_sklearn() -> None:
    code = (
        "import sys, bench.data.vision, bench.data.digits, bench.models.resnet, bench.prepare\n"
        "print([m for m in ('torchvision', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
