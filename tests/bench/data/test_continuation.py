"""Whole runs on data that are streamed, and on text: continued with the same bits, and learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from bench import config, train
from bench.data import python_source
from bench.data.tokens import entropies
from bench.identity import identify
from bench.run_folder import RunFolder

Config = Callable[..., config.RunConfig]
IMAGES = ["model=convnet", "model.width=4", "dataset=imagenet", "dataset.image_size=32"]
IMAGES += ["dataset.num_classes=3", "dataset.validation=6", "trainer.batch_size=5"]
BYTES = ["model=gpt_mini", "model.dim=16", "model.layers=1", "model.heads=2"]
BYTES += ["dataset=python_source", "dataset.context_length=50", "trainer.batch_size=40"]


def carry_out(run: config.RunConfig) -> RunFolder:
    train.train(run)
    return RunFolder(Path(run.runs_dir) / identify(run).id)


@pytest.fixture
def little_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The beginning of each split, which makes 4 steps an epoch."""
    whole = python_source._stream

    def beginning(split: Any) -> Tensor:
        return whole(split)[: 8200 if split == "train" else 600]

    monkeypatch.setattr(python_source, "_stream", beginning)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        pytest.param([*IMAGES, "dataset.workers=0"], id="streamed"),
        pytest.param([*IMAGES, "dataset.workers=2"], id="streamed by workers"),
        pytest.param(BYTES, id="text"),
    ],
)
@pytest.mark.parametrize("at", [3, 6])  # in the first epoch of 4 steps, and in the second
def test_an_interrupted_run_ends_with_the_same_bits(
    words: list[str],
    at: int,
    parts: Any,
    tmp_path: Path,
    data_folder: Path,
    little_source: None,
    assert_same: Callable[..., None],
) -> None:
    def run_in(name: str) -> config.RunConfig:
        sgd = ["optimizer=sgd", "optimizer._target_=bench_test_parts.Moody", "optimizer.lr=0.05"]
        trainer = {"epochs": 2, "log_every": 1, "checkpoint_every": 1, "threads": 1}
        more = [f"trainer.{key}={value}" for key, value in trainer.items()]
        more += ["trainer.progress=none", "trainer.device=cpu", "trainer.accounting=false"]
        places = [f"runs_dir={tmp_path / name}", f"data_dir={data_folder}", "tracker=none"]
        return config.load([*sgd, *words, *more, *places])

    whole = carry_out(run_in("whole"))
    assert whole.summary["steps"] == 8
    parts.Moody.steps, parts.Moody.at, parts.Moody.error = 0, at, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        train.train(run_in("stopped"))
    parts.Moody.at = None
    rest = carry_out(run_in("stopped"))
    assert parts.Moody.steps == 8 + 1  # the step at which it stopped was begun twice
    assert_same(rest.load_checkpoint(), whole.load_checkpoint())
    assert rest.history() == whole.history()


@pytest.mark.slow
def test_a_small_gpt_gets_well_below_the_unigram_entropy_of_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = python_source._stream

    def part(split: Any) -> Tensor:
        return whole(split)[: 600_000 if split == "train" else 100_000]

    monkeypatch.setattr(python_source, "_stream", part)
    words = ["model=gpt_mini", "model.dim=64", "model.layers=2", "model.heads=2", "tracker=none"]
    words += ["dataset=python_source", "dataset.context_length=64", "optimizer=adamw"]
    words += ["optimizer.lr=0.005", "trainer.batch_size=32", "trainer.epochs=2"]
    words += ["trainer.device=cpu", "trainer.threads=1", "trainer.accounting=false"]
    run = config.load([*words, f"runs_dir={tmp_path}", "trainer.progress=none"])
    summary = carry_out(run).summary
    found = entropies(part("val"), 256)
    assert summary["val/unigram_entropy"] == found.unigram
    assert summary["val/bigram_entropy"] == found.bigram
    assert summary["val/loss"] < found.unigram - 0.8
    said = capsys.readouterr().out
    assert f"validation loss {summary['val/loss']:.4f} nats a token" in said
    assert f"(entropies: unigram {found.unigram:.4f}, bigram {found.bigram:.4f})" in said
