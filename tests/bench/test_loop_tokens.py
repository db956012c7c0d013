"""The loop on tokens: int64 inputs [B, T], one target a position or one a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loops import setup_of
from torch import Tensor, nn

from bench.build import TokenShape, build_schedule
from bench.loop import Loop
from bench.parts import Parts
from bench.run_folder import RunFolder
from bench.tracking import NullTracker, RunInfo

VOCABULARY, LENGTH, CLASSES = 7, 5, 3


class Tokens:
    """Successive tokens differ by 1 or 2, so that a model can learn something."""

    device = torch.device("cpu")
    shape = TokenShape(VOCABULARY, LENGTH, VOCABULARY)

    def __init__(self, per_position: bool) -> None:
        stream = torch.Generator().manual_seed(0)
        start = torch.randint(0, VOCABULARY, (20, 1), generator=stream)
        steps = torch.randint(1, 3, (20, LENGTH), generator=stream)
        whole = torch.cat([start, start + steps.cumsum(1)], dim=1) % VOCABULARY
        self.inputs = whole[:, :-1].contiguous()
        self.targets = whole[:, 1:].contiguous() if per_position else whole[:, 0] % CLASSES

    def size(self, split: str) -> int:
        return {"train": 16, "val": 2, "test": 3}[split]

    def steps_per_epoch(self, batch_size: int) -> int:
        return 16 // batch_size

    def train_batches(
        self, seed: int, epoch: int, batch_size: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(start * batch_size, 16, batch_size):
            last = first + batch_size
            yield self.inputs[first:last], self.targets[first:last]

    def eval_batches(self, split: str, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        first, last = {"train": (0, 16), "val": (16, 18), "test": (17, 20)}[split]
        yield self.inputs[first:last], self.targets[first:last]


class Bigram(nn.Module):
    def __init__(self, per_position: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.head = nn.Linear(8, VOCABULARY if per_position else CLASSES)
        self.per_position = per_position

    def forward(self, tokens: Tensor) -> Tensor:
        assert tokens.dtype == torch.int64
        features = self.embedding(tokens)
        logits: Tensor = self.head(features if self.per_position else features.mean(1))
        return logits


def make_loop(tmp_path: Path, trainer: dict[str, Any], per_position: bool) -> Loop:
    torch.manual_seed(0)
    model = Bigram(per_position)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    constant = {"_target_": "bench.schedules.constant", "_partial_": True}
    # The format that is asked for is meaningless for tokens.
    settings = {**trainer, "epochs": 20, "log_every": 4, "channels_last": True}
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    schedule = build_schedule(constant, optimizer, 40)
    parts = Parts(Tokens(per_position), model, optimizer, schedule)
    return Loop(setup_of(settings), parts, folder, NullTracker(RunInfo("run", None, {}, tmp_path)))


@pytest.mark.parametrize("per_position", [True, False])
def test_tokens_are_learned_and_measured_a_target(
    tmp_path: Path, build: Any, per_position: bool
) -> None:
    loop = make_loop(tmp_path, {**build.TRAINER, "label_smoothing": 0.0}, per_position)
    loop.run()
    first, last = loop.history[0], loop.history[-1]
    assert last["train/loss"] < 0.8 * first["train/loss"]
    inputs, targets = next(loop.data.eval_batches("val", 8))
    with torch.no_grad():
        logits = loop.model(inputs).double().flatten(0, -2)
    assert last["val/loss"] == pytest.approx(
        F.cross_entropy(logits, targets.flatten()).item(), rel=1e-5
    )
    hits = (logits.argmax(1) == targets.flatten()).double().mean().item()
    assert last["val/accuracy"] == pytest.approx(hits, abs=1e-12)
    summary = loop.summary("done")
    rate = summary["samples_per_second"]
    assert summary["tokens_per_second"] == pytest.approx(LENGTH * rate)


def test_a_part_as_large_as_the_split_has_its_loss(tmp_path: Path, build: Any) -> None:
    loop = make_loop(tmp_path, {**build.TRAINER, "evaluate_every": 7}, per_position=True)
    loop.run()
    last = loop.history[-1]
    assert last["step/val_loss"] == pytest.approx(last["val/loss"], rel=1e-6)
    assert sum("step/val_loss" in row for row in loop.history) == 6
