"""Real runs with every optimizer of conf/optimizer: interrupted ones end with the same bits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from contract import missing_extra
from torch import Tensor

from bench import config, files, train
from bench.loop import Loop

pytestmark = pytest.mark.slow

FILES = sorted((files.conf_dir() / "optimizer").glob("*.yaml"))


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def optimizer(request: pytest.FixtureRequest) -> str:
    lacking = missing_extra(request.param)
    if lacking:
        pytest.skip(f"{request.param.stem} {lacking}")
    return str(request.param.stem)


def test_an_interrupted_run_ends_with_the_same_bits(
    optimizer: str,
    exponents: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Callable[..., None],
) -> None:
    words = [f"optimizer={optimizer}", "model=convnet", "model.width=4", "tracker=none"]
    words += ["trainer.epochs=2", "trainer.batch_size=400", "trainer.threads=1"]
    words += ["trainer.progress=none", "trainer.checkpoint_every=1", f"exponents={exponents()}"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = config.load(words)
    runs = [loaded.model_copy(update={"runs_dir": tmp_path / name}) for name in ("whole", "parts")]
    train.train(runs[0])

    real, steps = Loop._train_step, 0

    def stopping(self: Loop, *batch: Tensor) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:  # in the middle of the second epoch of three steps
            raise KeyboardInterrupt
        real(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train.train(runs[1])
        train.train(runs[1])
    folders = [
        next((tmp_path / name).glob("*/checkpoint.pt")).parent for name in ("whole", "parts")
    ]
    states = [torch.load(folder / "checkpoint.pt", weights_only=True) for folder in folders]
    assert states[0]["step"] == 6
    assert_same(*states)
    histories = [(folder / "history.jsonl").read_bytes() for folder in folders]
    assert histories[0] == histories[1]
