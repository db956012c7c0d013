"""Every file of sweeps/ trains: a few steps of its smallest run, on small copies of its dataset.

Parametrised over the files: a new one is tested without a change here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from torch import nn

from bench import files, parts
from bench.config import RunConfig
from bench.launch.grid import Composer, Job, combinations, master_config
from bench.loop import Loop
from bench.run_folder import RunFolder
from bench.setup import Setup
from bench.tracking import NullTracker, RunInfo
from bench.training.evaluation import laid_out
from optimizers.partition import by_layer

FILES = sorted((files.home() / "sweeps").glob("*.yaml"))
STEPS = 3
# A GPU's way of computing, not what is computed; and little of it.
HERE = ("device=cpu", "compile=false", "accounting=false", "threads=1", "progress=none")
HERE = (*HERE, "batch_size=2", "precision=float32", "channels_last=false", "epochs=1")
SMALL = {
    "synthetic_images": ("count=60", "test_count=20"),
    "synthetic_lm": ("count=40", "held_out=10", "context_length=16"),
}


def size_of(run: RunConfig, known: dict[str, int]) -> int:
    """Parameters of the run's network, made without memory."""
    key = str((run.model, run.dataset))
    if key not in known:
        shape = parts.build_data(run).shape
        with torch.device("meta"):
            model = parts.seeded_model(run, shape)
        known[key] = sum(parameter.numel() for parameter in model.parameters())
    return known[key]


def write_exponents(path: Path, model: nn.Module) -> None:
    """Exponents as if measured, of each layer of ``model``."""
    layers = [group["layer"] for group in by_layer(model) if "layer" in group]
    table: dict[str, Any] = {"layer": layers}
    for name, value in (("layer_type", "conv"), ("rows", 16), ("cols", 16), ("n_valid", 16)):
        table[name] = [value] * len(layers)
    table |= {"reliable": [True] * len(layers), "step": [1] * len(layers)}
    table["epoch"] = [1.0] * len(layers)
    for name in ("alpha", "gamma", "s"):
        table[name] = [1.0 + 0.01 * number for number in range(len(layers))]
        table[f"{name}_stderr"] = table[f"{name}_r2"] = [0.5] * len(layers)
    pyarrow.parquet.write_table(pyarrow.table(table), path)


def smallest(loader: Any, file: Path, words: list[str]) -> RunConfig:
    master = master_config(loader, [f"+sweeps={file.stem}", *words])
    composer = Composer(loader, master)
    runs = []
    for overrides in combinations(master):
        made = composer.job(overrides)
        assert isinstance(made, Job), made
        runs.append(made.config)
    known: dict[str, int] = {}
    return min(runs, key=lambda run: size_of(run, known))


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_smallest_run_trains(
    loader: Any, file: Path, data_folder: Path, tmp_path: Path, exponents: Callable[..., Path]
) -> None:
    words = [f"data_dir={data_folder}", "tracker=none", f"exponents={exponents()}"]
    words += [f"trainer.{word}" for word in HERE]
    run = smallest(loader, file, words)
    small = [f"dataset.{word}" for word in SMALL.get(run.names["dataset"], ())]
    if "exponents" in run.optimizer:
        model = parts.seeded_model(run, parts.build_data(run).shape)
        write_exponents(exponents(), model)
    run = smallest(loader, file, [*words, *small])
    data = parts.build_data(run)
    folder = RunFolder(tmp_path / "run")
    tracker = NullTracker(RunInfo("run", None, {}, tmp_path))
    setup = Setup.of(run)
    loop = Loop(setup, parts.build_parts(setup, data), folder, tracker)
    before = {name: value.detach().clone() for name, value in loop.model.named_parameters()}
    batches = data.train_batches(run.seed, 0, run.trainer.batch_size)
    for _ in range(STEPS):
        inputs, targets = next(batches)
        assert loop.training_step(laid_out(inputs, setup.memory_format), targets).isfinite()
    for name, value in loop.model.named_parameters():
        assert value.isfinite().all(), name
        assert value.ndim < 2 or not torch.equal(value, before[name]), name
