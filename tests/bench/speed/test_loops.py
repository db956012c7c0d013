"""The plain loop: transforms that are the scripts', and a step that is by the book."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench import config, parts
from bench.data import synthetic_lm
from bench.data.base import Data
from bench.speed.loops import Images, PlainLoop, Ready, Variant, make_loader, variants

CPU = torch.device("cpu")


def data_of(*overrides: str) -> Data:
    return parts.build_data(config.load(["trainer.batch_size=16", *overrides]))


def small_images(*overrides: str) -> Data:
    sizes = ("dataset.count=80", "dataset.test_count=10", "dataset.image_size=8")
    return data_of("dataset=synthetic_images", *sizes, *overrides)


def test_without_augmentation_a_sample_is_the_one_of_our_batches() -> None:
    data = small_images()
    plain = Images(data)  # type: ignore[arg-type]
    inputs, targets = next(data.eval_batches("train", len(plain)))
    for index in (0, 7, 31):
        image, label = plain[index]
        torch.testing.assert_close(image, inputs[index], rtol=1e-4, atol=1e-5)
        assert label == int(targets[index])


def test_crop_and_flip_are_random_and_keep_the_shape() -> None:
    data = small_images("dataset.pad=2", "dataset.flip=true")
    plain = Images(data)  # type: ignore[arg-type]
    torch.manual_seed(0)
    draws = [plain[3][0] for _ in range(8)]
    assert {tuple(image.shape) for image in draws} == {(3, 8, 8)}
    assert len({float(image.sum()) for image in draws}) > 3


def test_tokens_come_as_they_are() -> None:
    data = synthetic_lm.load(Path(), 0, context_length=8, count=64, held_out=8, vocab_size=40)
    ready = Ready(data, 16)
    tokens, targets = ready[0]
    assert tokens.dtype == targets.dtype == torch.int64
    assert tokens.shape == targets.shape
    first, following = next(data.train_batches(0, 0, 16))
    assert torch.equal(ready.inputs[:16], first)
    assert torch.equal(ready.targets[:16], following)
    assert len(ready) == 16 * data.steps_per_epoch(16)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_as_many_steps_as_ours(workers: int, tmp_path: Path) -> None:
    data = small_images()
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = PlainLoop(model, optimizer, make_loader(data, 16, workers), CPU, Variant("x"))
    seconds, steps, waiting = loop.epoch()
    assert steps == data.steps_per_epoch(16)
    assert 0 < waiting < seconds
    assert loop.epoch(steps=1).steps == 1
    assert loop.epoch().steps == steps


def test_tensor_float_is_off_only_where_it_is_said() -> None:
    conv, products = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, products.fp32_precision
    seen: list[tuple[str, str]] = []

    class Watched(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.append((conv.fp32_precision, products.fp32_precision))
            return super().forward(inputs.flatten(1))

    data = small_images()
    for exact in (True, False):
        model = Watched(3 * 64, 10)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        variant = Variant("x", exact=exact)
        PlainLoop(model, optimizer, make_loader(data, 16, 0), CPU, variant).epoch(1)
    assert seen == [("ieee", "ieee"), before]
    assert (conv.fp32_precision, products.fp32_precision) == before


def test_the_loops_of_each_device() -> None:
    assert [(v.amp, v.exact) for v in variants(torch.device("cuda"))] == [
        (False, True),
        (False, False),
        (True, False),
    ]
    assert [(v.amp, v.exact) for v in variants(CPU)] == [(False, False), (True, False)]


def test_the_loop_trains() -> None:
    data = small_images("dataset.separation=30.0")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))
    inputs, targets = next(data.eval_batches("train", 64))

    def loss() -> float:
        return F.cross_entropy(model(inputs), targets).item()

    before = loss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loop = PlainLoop(model, optimizer, make_loader(data, 16, 0), CPU, Variant("x", amp=True))
    for _ in range(4):
        loop.epoch()
    assert loss() < 0.7 * before
