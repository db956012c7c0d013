"""Tiny datasets in the exact on-disk layout of the real ones, served over HTTP on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import pickle
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.compat import ensure_torchvision
from bench.data import imagenet, tiny_imagenet, vision

ensure_torchvision()
import torchvision.datasets  # noqa: E402 (only safe after the call above)

Arrays = tuple[np.ndarray, np.ndarray]  # images uint8 [N, C, H, W], labels


def make_arrays(count: int, channels: int, size: int, classes: int, seed: int) -> Arrays:
    stream = np.random.default_rng(seed)
    images = stream.integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    return images, np.arange(count) % classes


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def idx(array: np.ndarray) -> bytes:
    """The IDX format: two zero bytes, type 8 (uint8), rank, big-endian sizes, data."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_fashion(folder: Path, train: Arrays, test: Arrays) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        for name, content in (("images-idx3", idx(images[:, 0])), ("labels-idx1", idx(labels))):
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(content))


def unpack_fashion(folder: Path) -> None:
    for path in folder.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))


def write_cifar(folder: Path, names: dict[str, Arrays], label_key: str, meta: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in names.items():
        batch = {"data": images.reshape(len(images), -1), label_key: labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
    key = label_key.replace("labels", "label_names") if "fine" in label_key else "label_names"
    (folder / meta).write_bytes(pickle.dumps({key: ["a", "b"]}))


def expect_checksums(patch: pytest.MonkeyPatch, kind: type, folder: Path) -> None:
    """Make torchvision's integrity check expect the files in ``folder`` and no others."""
    for attribute in ("train_list", "test_list"):
        names = [name for name, _ in getattr(kind, attribute)]
        patch.setattr(kind, attribute, [[name, md5(folder / name)] for name in names])
    patch.setattr(kind, "meta", kind.meta | {"md5": md5(folder / kind.meta["filename"])})


class Fixture:
    """One tiny dataset: its arrays, and ``install(root)`` which writes torchvision's files."""

    def __init__(self, kind: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.kind = kind
        self.channels, self.size = (1, 28) if kind == "fashion_mnist" else (3, 32)
        self.classes = 100 if kind == "cifar100" else 10
        shape = (self.channels, self.size, self.classes)
        self.train, self.test = make_arrays(200, *shape, seed=1), make_arrays(100, *shape, seed=2)
        self.server_root = folder
        # Neither these images nor a package of this machine are the published ones.
        plain = dataclasses.replace(vision._SOURCES[kind], digest=None, packaged=None)
        patch.setitem(vision._SOURCES, kind, plain)
        if kind == "fashion_mnist":
            self.source = folder
            write_fashion(folder, self.train, self.test)
            self.klass = torchvision.datasets.FashionMNIST
            self.sub = "FashionMNIST/raw"
            files = [(name, md5(folder / name)) for name, _ in self.klass.resources]
            patch.setattr(self.klass, "resources", files)
            return
        self.klass = getattr(torchvision.datasets, kind.upper())
        self.sub = self.klass.base_folder
        self.source = folder / self.sub
        images, labels = self.train
        if kind == "cifar10":
            names = {
                f"data_batch_{k + 1}": (images[40 * k : 40 * k + 40], labels[40 * k : 40 * k + 40])
                for k in range(5)
            }
            names["test_batch"] = self.test
            write_cifar(self.source, names, "labels", "batches.meta")
        else:
            names = {"train": self.train, "test": self.test}
            write_cifar(self.source, names, "fine_labels", "meta")
        expect_checksums(patch, self.klass, self.source)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            tar.add(self.source, arcname=self.sub)
        (folder / self.klass.filename).write_bytes(archive.getvalue())
        patch.setattr(self.klass, "tgz_md5", md5(folder / self.klass.filename))

    def ready(self, root: Path) -> Path:
        """Prepare the dataset in ``root``; return the prepared file."""
        self.install(root)
        vision.prepare(root, self.kind)
        return root / f"{self.kind}.pt"

    def install(self, root: Path) -> Path:
        """Write torchvision's files below ``root``; return the folder that holds them."""
        where = root / self.sub
        where.mkdir(parents=True)
        for path in self.source.iterdir():
            if path.is_file() and not path.name.endswith("tar.gz"):
                (where / path.name).write_bytes(path.read_bytes())
        if self.kind == "fashion_mnist":
            unpack_fashion(where)
        return where

    def point_to(self, base: str, patch: pytest.MonkeyPatch) -> None:
        """Let torchvision download from ``base``, a URL that ends in a slash."""
        if self.kind == "fashion_mnist":
            patch.setattr(self.klass, "mirrors", [base])
        else:
            patch.setattr(self.klass, "url", base + self.klass.filename)


@pytest.fixture(params=["fashion_mnist", "cifar10", "cifar100"])
def tiny(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Fixture:
    return Fixture(request.param, tmp_path / "source", monkeypatch)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve ``folder`` over HTTP on this machine; gives its address, which ends in a slash."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], str]]:
    """``serve(folder)`` serves it until the test's end and returns its address."""
    monkeypatch.setenv("no_proxy", "*")
    with contextlib.ExitStack() as stack:
        yield lambda folder: stack.enter_context(serving(folder))


@pytest.fixture
def served(tiny: Fixture, serve: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch) -> Fixture:
    """The tiny dataset, with torchvision's download addresses pointing to a local server."""
    tiny.point_to(serve(tiny.server_root), monkeypatch)
    return tiny


@pytest.fixture
def offline(tiny: Fixture, monkeypatch: pytest.MonkeyPatch) -> Fixture:
    """The tiny dataset, with nobody listening where torchvision would download."""
    monkeypatch.setenv("no_proxy", "*")
    tiny.point_to("http://127.0.0.1:9/", monkeypatch)
    return tiny


TINY_WNIDS = [f"n{k:08d}" for k in range(200)]
GREY = "train/n00000005/images/n00000005_1.JPEG"


def jpeg(seed: int, grey: bool = False) -> bytes:
    """A flat image, so that its colour survives JPEG; the colour says which it is."""
    colour = (seed % 200, 100 + seed // 200 * 50, 30)
    image = Image.new("RGB", (64, 64), colour)
    stream = io.BytesIO()
    (image.convert("L") if grey else image).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture(scope="session")
def tiny_imagenet_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny-ImageNet's layout: 2 training images a class, 30 of val/, unlabelled test images."""
    folder = tmp_path_factory.mktemp("publisher") / "tiny-imagenet-200"
    for k, wnid in enumerate(TINY_WNIDS):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for number in range(2):
            name = f"{wnid}_{number}.JPEG"
            grey = f"train/{wnid}/images/{name}" == GREY
            (images / name).write_bytes(jpeg(k + 200 * number, grey))
        boxes = "".join(f"{wnid}_{n}.JPEG\t0\t0\t63\t63\n" for n in range(2))
        (images.parent / f"{wnid}_boxes.txt").write_text(boxes)
    shuffled = np.random.default_rng(0).permutation(200)
    (folder / "wnids.txt").write_text("".join(f"{TINY_WNIDS[k]}\n" for k in shuffled))
    (folder / "words.txt").write_text("n00000000\tentity\n")
    for split in ("val", "test"):
        (folder / split / "images").mkdir(parents=True)
        for k in range(30):
            (folder / split / "images" / f"{split}_{k}.JPEG").write_bytes(jpeg(7 * k))
    rows = [f"val_{k}.JPEG\t{TINY_WNIDS[7 * k % 200]}\t0\t32\t44\t62\n" for k in range(30)]
    (folder / "val" / "val_annotations.txt").write_text("".join(rows))
    return folder


IMAGENET_WNIDS = ("n01440764", "n01443537", "n02099601")


@pytest.fixture(scope="session")
def imagenet_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's layout: 10 training and 3 test photographs a class, of several sizes and modes."""
    root = tmp_path_factory.mktemp("ILSVRC2012")
    stream = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 3)):
        for label, wnid in enumerate(IMAGENET_WNIDS):
            where = root / split / wnid
            where.mkdir(parents=True)
            for number in range(count):
                width, height = stream.integers(30, 60, 2)
                image = Image.fromarray(
                    stream.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
                ).resize((width, height), Image.Resampling.BICUBIC)
                mode = ("RGB", "L", "CMYK")[number % 3]
                validation = f"ILSVRC2012_val_{label}{number:07d}.JPEG"
                name = f"{wnid}_{number}.JPEG" if split == "train" else validation
                image.convert(mode).save(where / name, "JPEG")
            (where / "notes.txt").write_text("not an image")
    (root / "LOC_synset_mapping.txt").write_text("n01440764 tench\n")
    return root


@pytest.fixture(scope="session")
def data_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_imagenet_files: Path, imagenet_folders: Path
) -> Path:
    """A data folder in which each dataset of files is prepared, from the small copies."""
    root = tmp_path_factory.mktemp("prepared")
    for kind in ("fashion_mnist", "cifar10", "cifar100"):
        with pytest.MonkeyPatch.context() as patch:  # torchvision's checksums, for so long
            Fixture(kind, tmp_path_factory.mktemp(kind), patch).ready(root)
    tiny_imagenet.prepare(root, tiny_imagenet_files)
    imagenet.prepare(root, imagenet_folders)
    return root
