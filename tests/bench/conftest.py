"""Real, very small runs, and parts for them that fail, watch or randomise on request."""

from __future__ import annotations

import json
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hydra.core.config_loader import ConfigLoader
from loops import setup_of
from torch import Tensor, nn

from bench import cli, config, train
from bench.build import build_optimizer, build_schedule
from bench.compose import composing
from bench.data.images import Augment, ImageData, Split
from bench.loop import Loop
from bench.parts import Parts
from bench.run_folder import RunFolder
from bench.seeding import derive
from bench.tracking import NullTracker, RunInfo
from bench.training.progress import Lines
from bench.training.target import Target

# A run of 3 steps (1294 training images, batches of 400) and well under a second.
QUICK = (
    "model=mlp",
    "model.hidden=[8]",
    "tracker=none",
    "trainer.epochs=1",
    "trainer.batch_size=400",
    "trainer.log_every=1",
    "trainer.progress=none",
    "trainer.device=cpu",
    "trainer.threads=1",
    "trainer.accounting=false",
)


class Watcher:
    """A tracker that remembers what it is told; ``fail`` names methods that raise, and what."""

    calls: list[tuple[Any, ...]]
    fail: dict[str, BaseException]
    info: Any

    def __init__(self, info: Any) -> None:
        type(self).info = info

    def _told(self, name: str, *values: Any) -> None:
        self.calls.append((name, *values))
        if name in self.fail:
            raise self.fail[name]

    def start(self) -> None:
        self._told("start")

    def log(self, history: list[dict[str, Any]]) -> None:
        folder = Path(self.info.directory) / self.info.id
        written = [json.loads(line) for line in (folder / "history.jsonl").open()]
        self._told("log", [dict(row) for row in history], written)

    def finish(self, summary: dict[str, Any]) -> None:
        self._told("finish", dict(summary))

    def abandon(self, *, failed: bool) -> None:
        self._told("abandon", failed)


class Moody(torch.optim.SGD):
    """SGD that raises ``Moody.error`` in its step number ``Moody.at`` (from 1, in this process)."""

    at: int | None
    error: BaseException
    steps: int

    def step(self, closure: Any = None) -> Any:
        Moody.steps += 1
        if Moody.steps == Moody.at:
            raise Moody.error
        return super().step(closure)


class NoisyNet(nn.Module):
    """Convolution, batch norm and dropout: everything that has state or draws random numbers."""

    seeds: list[int]

    def __init__(self, in_channels: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4 * image_size**2, num_classes)
        self.seen: list[tuple[torch.dtype, bool, bool]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.conv(inputs)))
        logits: Tensor = self.head(self.drop(features).flatten(1))
        channels_last = inputs.is_contiguous(memory_format=torch.channels_last)
        NoisyNet.seeds.append(torch.initial_seed())
        self.seen.append((logits.dtype, self.training, channels_last))
        return logits


class Stop(Lines):
    """Progress that calls ``act`` once the run has made ``at`` steps in all."""

    def __init__(self, at: int, act: Callable[[], None] | None = None) -> None:
        super().__init__("run", epochs=2, total_steps=8, quiet=True)
        self.at, self.act, self.steps = at, act, 0

    def start_at(self, step: int) -> None:
        self.steps = step

    def advance(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            if self.act is None:
                raise KeyboardInterrupt
            self.act()


class LoopRig:
    """Builds loops of 2 epochs of 4 steps, as a process would: the folder's checkpoint loaded."""

    Stop = Stop
    TRAINER: ClassVar[dict[str, Any]] = {
        "epochs": 2,
        "batch_size": 8,
        "eval_batch_size": 5,
        "label_smoothing": 0.1,
        "grad_clip": 1.0,
        "precision": "float32",
        "channels_last": False,
        "compile": False,
        "cuda_graph": "auto",
        "device": "cpu",
        "devices": 1,
        "threads": 1,
        "log_every": 3,  # windows across epochs' ends and checkpoints
        "checkpoint_every": None,
        "checkpoint_seconds": 0,
        "accounting": False,
        "progress": "none",
    }
    ADAMW: ClassVar[dict[str, Any]] = {
        "_target_": "torch.optim.AdamW",
        "_partial_": True,
        "lr": 0.01,
        "weight_decay": 0.1,
    }

    def __init__(self, root: Path, parts: Any) -> None:
        self.root, self.parts = root, parts

    def images(self, augment: Augment | None = None) -> ImageData:
        stream = torch.Generator().manual_seed(7)

        def split(count: int) -> Split:
            pixels = torch.randint(0, 256, (count, 2, 5, 5), generator=stream, dtype=torch.uint8)
            return Split(pixels, torch.randint(0, 3, (count,), generator=stream))

        splits, statistics = (split(35), split(12), split(11)), ((0.5, 0.4), (0.3, 0.3))
        return ImageData("noise", 3, *splits, *statistics, augment or Augment(pad=1, flip=True))

    def __call__(
        self,
        name: str = "run",
        optimizer: dict[str, Any] = ADAMW,
        seed: int = 0,
        stop: Stop | None = None,
        data: ImageData | None = None,
        precision: str = "float32",
        memory_format: torch.memory_format = torch.contiguous_format,
        folder: RunFolder | None = None,
        target: Target | None = None,
        **changes: Any,
    ) -> Loop:
        folder = folder or RunFolder(self.root / name)
        folder.path.mkdir(parents=True, exist_ok=True)
        data = data or self.images()
        torch.manual_seed(derive(seed, "init"))
        device = data.train.images.device
        setup = setup_of(
            {**self.TRAINER, "device": str(device), **changes},
            seed,
            precision=precision,
            memory_format=memory_format,
            target=target,
        )
        model = self.parts.NoisyNet(2, 3, 5).to(device, memory_format=memory_format)
        made = build_optimizer(optimizer, model)
        cosine = {"_target_": "bench.schedules.cosine", "_partial_": True, "warmup": 0.3}
        total_steps = data.steps_per_epoch(8) * setup.config.trainer.epochs
        schedule = build_schedule(cosine, made, total_steps)
        torch.manual_seed(derive(seed, "noise"))
        tracker = NullTracker(RunInfo(name, None, {}, self.root))
        loop = Loop(setup, Parts(data, model, made, schedule), folder, tracker)
        loop.progress = stop or loop.progress
        checkpoint = folder.load_checkpoint()
        if checkpoint is not None:
            loop.load_state_dict(checkpoint)
        return loop


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    """Hydra's, of our configs."""
    with composing() as found:
        yield found


@pytest.fixture
def build(tmp_path: Path, parts: Any) -> LoopRig:
    """Build loops in tmp_path, on one thread."""
    torch.set_num_threads(1)
    return LoopRig(tmp_path, parts)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the classes above importable, as ``_target_: bench_test_parts.<class>``."""
    Watcher.calls, Watcher.fail = [], {}
    NoisyNet.seeds = []
    Moody.at, Moody.steps, Moody.error = None, 0, RuntimeError("boom\nsecond line")
    module = types.ModuleType("bench_test_parts")
    module.Watcher, module.Moody, module.NoisyNet = Watcher, Moody, NoisyNet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bench_test_parts", module)
    return module


@pytest.fixture
def quick(tmp_path: Path) -> Callable[..., config.RunConfig]:
    """``quick(*overrides)`` is the checked config of a very small run below tmp_path."""

    def make(*overrides: str) -> config.RunConfig:
        return config.load([*QUICK, f"runs_dir={tmp_path / 'runs'}", *overrides])

    return make


@pytest.fixture
def moody(parts: Any, quick: Callable[..., config.RunConfig]) -> Callable[..., config.RunConfig]:
    """As ``quick``, with the optimizer Moody."""
    # SGD's plain options; the others of conf/optimizer/sgd.yaml are SGD's too.
    return lambda *more: quick("optimizer=sgd", "optimizer._target_=bench_test_parts.Moody", *more)


@pytest.fixture
def watched(parts: Any, moody: Callable[..., config.RunConfig]) -> Callable[..., config.RunConfig]:
    """As ``moody``, with the tracker Watcher."""
    return lambda *more: moody("tracker._target_=bench_test_parts.Watcher", *more)


@pytest.fixture
def exponents(tmp_path: Path) -> Callable[..., Path]:
    """``exponents(name, **columns)`` writes a file of measured exponents for the convnet."""

    def write(name: str = "exponents.parquet", **columns: Any) -> Path:
        layers = ["conv1", "conv2", "conv3", "head"]
        table: dict[str, Any] = {
            "layer": layers,
            "layer_type": ["conv", "conv", "conv", "head"],
            "rows": [16, 32, 64, 10],
            "cols": [9, 144, 288, 64],
            "n_valid": [9, 20, 20, 10],
            "reliable": [True] * 4,
            "step": [100] * 4,
            "epoch": [5.0] * 4,
        }
        for key, value in (("alpha", 2.0), ("gamma", 0.5), ("s", 1.0)):
            table[key] = [value + 0.1 * index for index in range(4)]
            table[f"{key}_stderr"], table[f"{key}_r2"] = [0.05] * 4, [0.9] * 4
        table |= columns
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table(table), path)
        return path

    return write


class Command:
    """``spectral-bench train ...`` in this process: exit status, and what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["bench.train", *arguments])
        self._capfd.readouterr()
        try:
            cli.main(train.task, config_name="train")
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = self._capfd.readouterr()
        return status, out, err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: Any, tmp_path: Path) -> Iterator[Command]:
    """Run commands in tmp_path, and undo what the command line sets for its whole process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    yield Command(monkeypatch, capfd)


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """``assert_same(a, b)``: equal bits, through dicts, lists and tensors; not of meters."""

    def same(left: Any, right: Any, where: str = "state") -> None:
        assert type(left) is type(right), where
        if isinstance(left, Tensor):
            assert left.dtype == right.dtype, where
            assert torch.equal(left, right), where
        elif isinstance(left, dict):
            assert left.keys() == right.keys(), where
            for key in left:
                if key not in ("clock", "seconds", "energy", "joules"):
                    same(left[key], right[key], f"{where}.{key}")
        elif isinstance(left, Sequence) and not isinstance(left, str):
            assert len(left) == len(right), where
            for index, (a, b) in enumerate(zip(left, right, strict=True)):
                same(a, b, f"{where}[{index}]")
        else:
            assert left == right, where

    return same


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    """A run may set the number of threads of the whole process; give it back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
