"""Time an epoch of a model on a dataset, beside what a plain PyTorch script takes for it.

Three loops in one run, in turn, after a first epoch that does not count: ours (the step as the
trainer makes it, data on the device); (a) a DataLoader with transforms on the CPU and an eager
float32 loop; (b) the same with automatic mixed precision. Utilisation is the rate of the model's
FLOPs over that of a large matrix product, measured here and now (bf16 on CUDA, float32 on the CPU).
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field
from rich import box
from rich.table import Table

from bench import cli, config, experiment, options
from bench.accounting import ceiling, measure_cost
from bench.build import build_optimizer, build_schedule
from bench.config import RunConfig
from bench.data.base import Data
from bench.device import choose_device, choose_memory_format, choose_precision, prepare
from bench.errors import UserError
from bench.evaluation import laid_out
from bench.files import write_atomically
from bench.loss_window import LossWindow
from bench.speed.optimizer_step import environment
from bench.speed.plain import PlainLoop, make_loader
from bench.speed.profile import breakdown
from bench.step import TrainingStep

PROG = "python -m bench.speed.epoch"


class EpochOptions(options.Options):
    """Options of the command."""

    model: str = Field("resnet18", description="A file of conf/model/.")
    dataset: str = Field("synthetic_images", description="A file of conf/dataset/.")
    optimizer: str = Field("adamw", description="A file of conf/optimizer/.")
    batch_size: int = Field(512, ge=1, description="Samples a step, in all loops.")
    overrides: list[str] = Field(
        [], description="Changes of the run's config: dataset.count=55556,dataset.pad=4."
    )
    device: str = Field("auto", description="auto, cpu, cuda.")
    compile: bool | None = Field(None, description="Compile ours; null: on CUDA.")
    epochs: int = Field(3, ge=1, description="Epochs of each loop that count.")
    steps: int | None = Field(None, ge=1, description="At most so many steps an epoch.")
    workers: int = Field(
        min(8, os.cpu_count() or 1), ge=0, description="Worker processes of the DataLoader."
    )
    plain: bool = Field(True, description="Time the plain loops, too.")
    profile: bool = Field(False, description="Say where our step's time goes.")
    data_dir: str = Field("data", description="Where datasets and compiled code are kept.")
    out: Path | None = Field(None, description="Write the numbers as JSON to this file, too.")


@dataclass(frozen=True)
class Row:
    """One loop's numbers; ``epochs`` are seconds, of whole epochs if only some steps were made."""

    loop: str
    epochs: tuple[float, ...]
    first_epoch: float
    samples_per_second: float
    tflops: float
    utilisation: float
    peak_mib: float | None

    @property
    def seconds(self) -> float:
        """The median epoch."""
        return statistics.median(self.epochs)


class OurLoop:
    """Training as `bench.train` does it, without evaluation, history and checkpoints."""

    def __init__(self, run_config: RunConfig, data: Data, device: torch.device) -> None:
        trainer = run_config.trainer
        self.data, self.config, self.device = data.to(device), run_config, device
        self.precision = choose_precision(trainer.precision, device)
        self.memory_format = choose_memory_format(trainer.channels_last, device)
        model = experiment.seeded_model(run_config, data.shape)
        model = model.to(device=device, memory_format=self.memory_format)  # type: ignore[call-overload]
        optimizer = build_optimizer(run_config.optimizer, model)
        steps = data.steps_per_epoch(trainer.batch_size)
        self.notes: list[str] = []
        self.step = TrainingStep(
            model=model,
            optimizer=optimizer,
            schedule=build_schedule(run_config.schedule, optimizer, 1000 * steps),
            device=device,
            precision=self.precision,
            config=trainer,
            say=self.notes.append,
        )
        self.window = LossWindow(trainer.log_every, device)
        self.number = 0
        self.preparation = 0.0  # seconds of the steps that compiled, or prepared a graph

    def epoch(self, steps: int | None = None) -> tuple[float, int]:
        """Make one epoch, or its first ``steps`` steps; return its seconds and its steps."""
        start = time.perf_counter()
        count = 0
        size = self.config.trainer.batch_size
        for inputs, targets in self.data.train_batches(self.config.seed, self.number, size):
            if count == steps:
                break
            cold, began = self.step.cold, time.perf_counter()
            self.window.add(self.step(laid_out(inputs, self.memory_format), targets))
            self.preparation += time.perf_counter() - began if cold else 0.0
            count += 1
            if count % self.config.trainer.log_every == 0:
                self.window.take()
        self.window.take()
        self.number += 1
        return time.perf_counter() - start, count

    def how(self) -> str:
        """Say how steps are made."""
        parts = ["compiled" if self.config.trainer.compile else "eager", self.precision]
        return f"ours ({', '.join(parts)}{', CUDA graph' if self.step.graph else ''})"


def run_config_of(asked: EpochOptions, device: torch.device) -> RunConfig:
    """Compose the run that is timed.

    Raises:
        UserError: there is no such model, dataset, optimizer or key, or a value is refused.
    """
    compiled = device.type == "cuda" if asked.compile is None else asked.compile
    overrides = [
        f"model={asked.model}",
        f"dataset={asked.dataset}",
        f"optimizer={asked.optimizer}",
        "tracker=none",
        f"trainer.batch_size={asked.batch_size}",
        f"trainer.compile={str(compiled).lower()}",
        f"trainer.device={device.type}",
        "trainer.log_every=50",
        f"data_dir={asked.data_dir}",
        *asked.overrides,
    ]
    try:
        return config.load(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(cli.explain(error)) from error


def measure(asked: EpochOptions, device: torch.device) -> dict[str, Any]:
    """Time the loops in turn; return rows, cost, and a profile if asked for."""
    run_config = run_config_of(asked, device)
    trainer = run_config.trainer
    prepare(trainer, device, Path(run_config.data_dir))
    data = experiment.build_data(run_config)
    ours = OurLoop(run_config, data, device)
    loops: dict[str, Callable[[int | None], tuple[float, int]]] = {"ours": ours.epoch}
    if asked.plain:
        loader = make_loader(data, trainer.batch_size, asked.workers)
        for name, amp in (("(a) plain float32", False), ("(b) plain AMP", True)):
            model = experiment.seeded_model(run_config, data.shape).to(device)
            optimizer = build_optimizer({**run_config.optimizer, **_eager(run_config)}, model)
            loops[name] = PlainLoop(model, optimizer, loader, device, amp=amp).epoch
    batch = next(ours.data.train_batches(0, 0, trainer.batch_size))
    cost = measure_cost(
        ours.step.model, lambda copy: build_optimizer(run_config.optimizer, copy), batch
    )
    first, times, peaks = _in_turn(loops, asked, data.steps_per_epoch(trainer.batch_size), device)
    limit = ceiling(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    rows = []
    for name, epochs in times.items():
        samples = data.steps_per_epoch(trainer.batch_size) * trainer.batch_size
        rate = samples / statistics.median(epochs)
        rows.append(
            Row(
                loop=ours.how() if name == "ours" else name,
                epochs=epochs,
                first_epoch=first[name],
                samples_per_second=rate,
                tflops=rate * cost.flops_per_sample / 1e12,
                utilisation=rate * cost.flops_per_sample / limit,
                peak_mib=peaks[name],
            )
        )
    inputs = laid_out(batch[0], ours.memory_format)
    where = breakdown(lambda: ours.step(inputs, batch[1]), device, 20) if asked.profile else {}
    return {
        "rows": rows,
        "cost": cost._asdict(),
        "ceiling_tflops": limit / 1e12,
        "preparation_seconds": ours.preparation,
        "notes": ours.notes,
        "profile": where,
        "steps_per_epoch": data.steps_per_epoch(trainer.batch_size),
    }


def _eager(run_config: RunConfig) -> dict[str, bool]:
    return {"compile": False} if "compile" in run_config.optimizer else {}


def _in_turn(
    loops: dict[str, Callable[[int | None], tuple[float, int]]],
    asked: EpochOptions,
    steps_per_epoch: int,
    device: torch.device,
) -> tuple[dict[str, float], dict[str, tuple[float, ...]], dict[str, float | None]]:
    """First epochs (compilation, workers' start), then rounds in which each loop has its turn."""
    first = {name: epoch(asked.steps)[0] for name, epoch in loops.items()}
    times: dict[str, list[float]] = {name: [] for name in loops}
    peaks: dict[str, float | None] = {}
    for _ in range(asked.epochs):
        for name, epoch in loops.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            seconds, steps = epoch(asked.steps)
            times[name].append(seconds * steps_per_epoch / steps)
            peaks[name] = None
            if device.type == "cuda":
                peaks[name] = torch.cuda.max_memory_allocated(device) / 2**20
    return first, {name: tuple(seconds) for name, seconds in times.items()}, peaks


def render(rows: list[Row]) -> Table:
    """Return the rows as a table for the terminal."""
    table = Table(box=box.ASCII_DOUBLE_HEAD, pad_edge=False)
    table.add_column("loop", no_wrap=True)
    names = ("s/epoch", "fastest", "slowest", "samples/s", "TFLOP/s", "of ceiling", "first epoch s")
    for name in (*names, "ours is faster"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.loop,
            f"{row.seconds:.3f}",
            f"{min(row.epochs):.3f}",
            f"{max(row.epochs):.3f}",
            f"{row.samples_per_second:,.0f}",
            f"{row.tflops:.3g}",
            f"{row.utilisation:.1%}",
            f"{row.first_epoch:.1f}",
            "" if row is rows[0] else f"{row.seconds / rows[0].seconds:.1f} x",
        )
    return table


def report(asked: EpochOptions, found: dict[str, Any], about: dict[str, str]) -> None:
    """Print the table and what belongs to it."""
    rows: list[Row] = found["rows"]
    setting = f"{asked.model} on {asked.dataset}, {asked.optimizer}, batch {asked.batch_size}"
    print(f"{setting}; {', '.join(f'{key} {value}' for key, value in about.items())}")
    options.show(render(rows))
    for note in found["notes"]:
        print(note)
    cost, step = found["cost"], rows[0].seconds / found["steps_per_epoch"]
    print(
        f"a step: {1e3 * step:.2f} ms; the optimizer alone {1e3 * cost['optimizer_seconds']:.2f} ms"
        f" ({cost['optimizer_seconds'] / step:.0%}), {cost['optimizer_flops'] / 1e9:.1f} GFLOP;"
        f" forward and backward {cost['flops_per_sample'] / 1e9:.3f} GFLOP a sample"
    )
    print(
        f"ceiling {found['ceiling_tflops']:.3g} TFLOP/s;"
        f" compilation and warm-up of ours {found['preparation_seconds']:.1f} s"
    )
    for name, milliseconds in found["profile"].items():
        print(f"  {name:24s}{milliseconds:8.3f} ms a step")


def main(argv: list[str]) -> None:
    """Run the command."""
    asked = options.parse(
        EpochOptions,
        argv,
        prog=PROG,
        description=__doc__ or "",
        examples=(
            "model=resnet18 dataset=cifar10 optimizer=muon",
            "model=convnet dataset=digits batch_size=64 epochs=5",
            "overrides=dataset.count=55556,dataset.pad=4,dataset.flip=true profile=true out=e.json",
        ),
    )
    device = choose_device(asked.device)
    try:
        found = measure(asked, device)
    except torch.OutOfMemoryError as error:
        raise UserError(f"batch_size={asked.batch_size}: out of memory; take less") from error
    about = environment(device)
    report(asked, found, about)
    if asked.out is not None:
        content = {**asked.model_dump(mode="json"), **about, **found}
        content["rows"] = [{**asdict(row), "seconds": row.seconds} for row in found["rows"]]
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(asked.out, lambda stream: stream.write(text.encode()))


if __name__ == "__main__":
    options.run(main)
