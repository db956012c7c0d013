"""Streamed batches are those of images on the device, however many processes read them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.build import ImageShape
from bench.data import synthetic_images
from bench.data.base import Batch, Data
from bench.data.images import ImageData, Split
from bench.data.streaming import Epoch, ImageStream, InMemory

NOWHERE = Path("no/such/folder")
OPTIONS: dict[str, Any] = {"image_size": 6, "count": 60, "test_count": 11, "pad": 2, "flip": True}


def load(workers: int | None, seed: int = 0) -> Data:
    return synthetic_images.load(NOWHERE, seed, **OPTIONS, workers=workers)


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) and a.dtype == b.dtype
        for pair, other in zip(first, second, strict=True)
        for a, b in zip(pair, other, strict=True)
    )


@pytest.fixture(scope="module")
def resident() -> Data:
    data = load(None)
    assert isinstance(data, ImageData)
    return data


@pytest.mark.parametrize("workers", [0, 2, 4])
def test_batches_are_those_of_device_resident_feeding(resident: Data, workers: int) -> None:
    stream = load(workers)
    assert isinstance(stream, ImageStream) and isinstance(stream, Data)
    assert (stream.shape, stream.name) == (resident.shape, resident.name)
    for seed, epoch, start in ((0, 0, 0), (7, 3, 4)):
        expected = list(resident.train_batches(seed, epoch, 8, start))
        assert len(expected) == 6 - start
        assert same(list(stream.train_batches(seed, epoch, 8, start)), expected)
    for split in ("train", "val", "test"):
        assert stream.size(split) == resident.size(split)
        expected = list(resident.eval_batches(split, 4))
        assert same(list(stream.eval_batches(split, 4)), expected)


def test_an_epoch_entered_at_any_step_continues_bit_for_bit(resident: Data) -> None:
    stream = load(0)
    whole = list(resident.train_batches(1, 2, 9))
    for start in range(7):
        assert same(list(stream.train_batches(1, 2, 9, start)), whole[start:])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_random_state_is_left_alone(workers: int) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(load(workers).train_batches(0, 0, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_left_in_the_middle_ends_its_workers() -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    others = set(children.read_text().split())  # multiprocessing's own, of other tests
    batches = load(2).train_batches(0, 0, 4)
    next(batches)
    assert set(children.read_text().split()) > others
    del batches
    assert set(children.read_text().split()) <= others


class Asking:
    """A source that tells what it was asked for, and who answers."""

    labels = torch.arange(12)

    def __len__(self) -> int:
        return 12

    def read(self, index: list[int], epoch: Epoch | None) -> torch.Tensor:
        ignored = signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_IGN  # or it could not be ended
        values = [10 * i + (0 if epoch is None else epoch.seed + epoch.number) for i in index]
        images = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 2, 2)
        images[:, :, 0, 0] = os.getpid() % 251
        images[:, :, 0, 1] = ignored
        return images


def asking(workers: int) -> ImageStream:
    return ImageStream(
        "asking", ImageShape(1, 12, 2), Asking(), Asking(), Asking(), (0,), (1 / 255,),
        workers=workers,
    )  # fmt: skip


def test_the_source_is_told_seed_and_epoch_in_training_alone() -> None:
    data = asking(0)
    images, labels = next(data.train_batches(3, 2, 12))
    assert torch.equal(images[:, 0, 1, 1], labels * 10.0 + 5)
    images, labels = next(data.eval_batches("train", 12))
    assert torch.equal(images[:, 0, 1, 1], labels * 10.0)


def test_workers_are_other_processes_and_leave_signals_to_the_main_one() -> None:
    mine = os.getpid() % 251
    before = signal.getsignal(signal.SIGUSR2)
    here, _ = next(asking(0).eval_batches("val", 12))
    assert (here[:, 0, 0, 0] == mine).all() and (here[:, 0, 0, 1] == 0).all()
    there, _ = next(asking(1).eval_batches("val", 12))
    assert (there[:, 0, 0, 0] != mine).all() and (there[:, 0, 0, 1] == 1).all()
    assert signal.getsignal(signal.SIGUSR2) == before


def test_bad_arguments_are_refused_at_once() -> None:
    data = load(0)
    with pytest.raises(ValueError, match=r"synthetic_images.*54 images.*from 1 to 54"):
        data.train_batches(0, 0, 55)
    with pytest.raises(ValueError, match="start must be from 0 to 6"):
        data.train_batches(0, 0, 8, 7)
    with pytest.raises(ValueError, match="no split 'tset'"):
        data.eval_batches("tset", 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="workers must be 0 or more processes, not -1"):
        load(-1)


def test_moving_it_changes_the_device_alone() -> None:
    moved = load(0).to("meta")
    assert moved.device == torch.device("meta")
    assert next(moved.eval_batches("val", 2))[0].is_meta


def test_images_in_memory_are_read_as_they_are() -> None:
    split = Split(torch.arange(4 * 9).reshape(4, 1, 3, 3).to(torch.uint8), torch.arange(4))
    source = InMemory(split)
    assert len(source) == 4 and torch.equal(source.labels, split.labels)
    for epoch in (None, Epoch(0, 0)):
        assert torch.equal(source.read([2, 0], epoch), split.images[[2, 0]])


@pytest.mark.gpu
def test_a_gpu_gets_the_same_pixels() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for workers in (None, 0, 2):
        here = list(load(workers).train_batches(0, 0, 8))
        there = list(load(workers).to("cuda").train_batches(0, 0, 8))
        assert all(images.is_cuda and labels.is_cuda for images, labels in there)
        for (a, b), (c, d) in zip(here, there, strict=True):
            torch.testing.assert_close(a, c.cpu(), rtol=1e-6, atol=1e-6)
            assert torch.equal(b, d.cpu())
