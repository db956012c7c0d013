"""Time an epoch of a model on a dataset, beside what a plain PyTorch script takes for it.

Loops in one run, in turn, after a first epoch that does not count: ours with each optimizer (the
step as the trainer makes it, data on the device); then, with the first of them, (a) a DataLoader
with transforms on the CPU and an eager float32 loop, on CUDA without TF32 and again as torch
computes by default, and (b) the same with automatic mixed precision. Utilisation is the rate of the
model's FLOPs over that of a large matrix product, measured here and now (bf16 on CUDA, float32 on
the CPU).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field
from torch.utils.data import DataLoader

from bench import cli, options
from bench.build import build_optimizer
from bench.config import RunConfig, load
from bench.data.base import Batch, Data
from bench.errors import UserError
from bench.files import write_atomically
from bench.parts import build_data, seeded_model
from bench.setup import Setup, device_here
from bench.speed.epoch_table import LEGEND, Row, breakdown, render, starts, step_lines
from bench.speed.loops import OurLoop, PlainLoop, Variant, make_loader, variants
from bench.speed.optimizer_step import changes_of, environment
from bench.speed.stopwatch import Epoch, progress
from bench.table_writer import drawn
from bench.torch_private import compiling_anew
from bench.training.accounting import Cost, ceiling, measure_cost, peak_mib, watch_memory
from bench.training.evaluation import laid_out

PROG = "spectral-bench speed epoch"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class EpochOptions(options.Options):
    """Options of the command."""

    model: str = Field("resnet18", description="A file of conf/model/.")
    dataset: str = Field("synthetic_images", description="A file of conf/dataset/.")
    optimizer: list[str] = Field(
        ["adamw"],
        min_length=1,
        description="Files of conf/optimizer/, with changes after colons: muon:ns_steps=6.",
    )
    batch_size: int = Field(512, ge=1, description="Samples a step, in all loops.")
    overrides: list[str] = Field(
        [], description="Changes of the run's config: dataset.count=55556,dataset.pad=4."
    )
    device: str = Field("auto", description="auto, cpu, cuda.")
    compile: bool | None = Field(None, description="Compile ours; null: on CUDA.")
    epochs: int = Field(3, ge=1, description="Epochs of each loop that count.")
    steps: int | None = Field(None, ge=1, description="At most so many steps an epoch.")
    workers: int = Field(
        min(16, CORES),
        ge=0,
        description="Worker processes of the plain loops' DataLoader, which often bounds them.",
    )
    plain: bool = Field(True, description="Time the plain loops, too.")
    profile: bool = Field(
        False, description="Print where the first optimizer's step spends its time."
    )
    start: bool = Field(
        False,
        description="Measure compilation and warm-up in two more processes, with an empty cache of "
        "compiled code and with the one then filled.",
    )
    data_dir: str = Field("data", description="Where datasets and compiled code are kept.")
    out: Path | None = Field(None, description="Write the numbers as JSON to this file, too.")


@dataclass
class Contender:
    """A loop in the comparison: its first epoch, and those that count.

    ``peak_mib``: largest memory of a GPU until the first epoch's end, beyond what was there before.
    """

    loop: OurLoop | PlainLoop
    first: Epoch
    peak_mib: float | None
    epochs: list[Epoch] = field(default_factory=list)

    @classmethod
    def begin(
        cls, make: Callable[[], OurLoop | PlainLoop], steps: int | None, device: torch.device
    ) -> Contender:
        """Make the loop and its first epoch, with compilation, or the start of workers."""
        cuda = device.type == "cuda"
        before = torch.cuda.memory_allocated(device) / 2**20 if cuda else 0.0
        watch_memory(device)
        loop = make()
        first = loop.epoch(steps)
        return cls(loop, first, peak_mib(device) - before if cuda else None)


def run_config_of(asked: EpochOptions, optimizer: str, device: torch.device) -> RunConfig:
    """Compose the run that is timed; ``optimizer`` is one of those asked for.

    Raises:
        UserError: there is no such model, dataset, optimizer or key, or a value is refused.
    """
    compiled = device.type == "cuda" if asked.compile is None else asked.compile
    overrides = [
        f"model={asked.model}",
        f"dataset={asked.dataset}",
        "tracker=none",
        f"trainer.batch_size={asked.batch_size}",
        f"trainer.compile={str(compiled).lower()}",
        f"trainer.device={device.type}",
        "trainer.epochs=1000",  # the schedule's; none is near its end
        "trainer.log_every=50",
        "trainer.accounting=false",  # it would be in the peak of memory
        f"data_dir={asked.data_dir}",
        *changes_of(optimizer),
        *asked.overrides,
    ]
    try:
        return load(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(cli.explain(error)) from error


def compete(
    makers: Sequence[Callable[[], OurLoop | PlainLoop]],
    epochs: int,
    steps: int | None,
    device: torch.device,
) -> list[Contender]:
    """Make the loops, and then an epoch of each in every round."""
    contenders = []
    for make in makers:
        contenders.append(Contender.begin(make, steps, device))
        progress(f"{contenders[-1].loop.name}: first epoch, {contenders[-1].first.seconds:.1f} s")
    for number in range(1, epochs + 1):
        for contender in contenders:
            contender.epochs.append(contender.loop.epoch(steps))
        took = ", ".join(f"{contender.epochs[-1].seconds:.3f}" for contender in contenders)
        progress(f"round {number} of {epochs}: {took} s")
    return contenders


def measure(asked: EpochOptions, device: torch.device) -> dict[str, Any]:
    """Time the loops; return rows, what they are compared with, and a profile if asked."""
    setups = [Setup.of(run_config_of(asked, name, device)) for name in asked.optimizer]
    config = setups[0].config
    setups[0].check()
    setups[0].prepare()
    data = build_data(config).to(device)
    makers: list[Callable[[], OurLoop | PlainLoop]] = [
        functools.partial(OurLoop, setup, data, label)
        for setup, label in zip(setups, asked.optimizer, strict=True)
    ]
    if asked.plain:
        loader = make_loader(data, config.trainer.batch_size, asked.workers)
        for variant in variants(device):
            makers.append(functools.partial(_plain, config, data, loader, device, variant))
    # The same code is compiled once for each optimizer.
    with compiling_anew(8 * len(setups)):
        contenders = compete(makers, asked.epochs, asked.steps, device)
        ours = [item.loop for item in contenders if isinstance(item.loop, OurLoop)]
        paces = [loop.pace() for loop in ours]
    progress("counting FLOPs, and timing the optimizers alone")
    batch = next(data.train_batches(0, 0, config.trainer.batch_size))
    costs = [_cost(loop, batch) for loop in ours]
    inputs = laid_out(batch[0], setups[0].memory_format)
    where = breakdown(lambda: ours[0].step(inputs, batch[1]), device, 20) if asked.profile else {}
    limit = ceiling(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    per_epoch = data.steps_per_epoch(config.trainer.batch_size)
    rows = []
    for item in contenders:
        row = Row(
            loop=item.loop.name,
            epochs=tuple(epoch.scaled(per_epoch) for epoch in item.epochs),
            baseline=tuple(epoch.scaled(per_epoch).seconds for epoch in contenders[0].epochs),
            first_epoch=item.first.seconds,
            samples=per_epoch * config.trainer.batch_size,
            flops_per_sample=costs[0].flops_per_sample,
            ceiling=limit,
            peak_mib=item.peak_mib,
        )
        rows.append(row)
    for index, loop in enumerate(ours):
        rows[index] = replace(
            rows[index], cost=costs[index], pace=paces[index], preparation=loop.preparation
        )
    return {
        "rows": rows,
        "steps_per_epoch": per_epoch,
        "notes": [f"{loop.name}: {note}" for loop in ours for note in loop.notes],
        "profile": where,
        "cores": CORES,
        "start": starts(asked.model_dump(mode="json")) if asked.start else {},
    }


def _plain(
    run: RunConfig, data: Data, loader: DataLoader[Any], device: torch.device, variant: Variant
) -> PlainLoop:
    model = seeded_model(run, data.shape).to(device)
    eager = {"compile": False} if "compile" in run.optimizer else {}
    optimizer = build_optimizer({**run.optimizer, **eager}, model)
    return PlainLoop(model, optimizer, loader, device, variant)


def _cost(loop: OurLoop, batch: Batch) -> Cost:
    make = functools.partial(build_optimizer, loop.setup.config.optimizer)
    return measure_cost(loop.step.model, make, batch)


def report(asked: EpochOptions, measured: dict[str, Any], about: dict[str, str]) -> None:
    """Print the table and what belongs to it."""
    rows: list[Row] = measured["rows"]
    per_epoch = measured["steps_per_epoch"]
    setting = (
        f"{asked.model} on {asked.dataset}, batch {asked.batch_size}, {per_epoch} steps an epoch"
    )
    print(f"{setting}; {', '.join(f'{key} {value}' for key, value in about.items())}")
    options.show(drawn(render(rows), "boxed"))
    print(LEGEND)
    if asked.plain:
        print(
            f"plain loops: {asked.optimizer[0]}, a DataLoader with workers={asked.workers} "
            f"on {measured['cores']} cores, transforms on the CPU"
        )
    for line in (*measured["notes"], *step_lines(rows, per_epoch)):
        print(line)
    for state, seconds in measured["start"].items():
        listed = ", ".join(f"{value:.1f} s" for value in seconds)
        print(f"compilation and warm-up in a new process, {state} cache: {listed}")
    print(
        f"forward and backward {rows[0].flops_per_sample / 1e9:.3f} GFLOP a sample;"
        f" ceiling {rows[0].ceiling / 1e12:.3g} TFLOP/s"
    )
    for name, milliseconds in measured["profile"].items():
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
            "optimizer=adamw,spectral_newton:damping=0.1,muon plain=false epochs=8",
            "model=convnet dataset=digits batch_size=64 epochs=5",
            "overrides=dataset.count=55556,dataset.pad=4,dataset.flip=true profile=true out=e.json",
        ),
    )
    device = device_here(asked.device)
    try:
        measured = measure(asked, device)
    except torch.OutOfMemoryError as error:
        raise UserError(f"batch_size={asked.batch_size}: out of memory; take less") from error
    about = environment(device)
    report(asked, measured, about)
    if asked.out is not None:
        content = {**asked.model_dump(mode="json"), **about, **measured}
        content["rows"] = [row.as_json() for row in measured["rows"]]
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(asked.out, lambda stream: stream.write(text.encode()))


if __name__ == "__main__":
    options.run(main)
