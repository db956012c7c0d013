"""From a run's config to its training loop, in this process and in those that follow it."""

from __future__ import annotations

import functools
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench import experiment
from bench.build import build_optimizer, build_schedule
from bench.config import RunConfig
from bench.data.base import Data
from bench.device import (
    choose_device,
    choose_memory_format,
    choose_precision,
    compile_key,
    prepare,
)
from bench.digest import component_digests
from bench.loop import Loop
from bench.preemption import StopRequested
from bench.run import Row, RunFolder
from bench.seeding import derive
from bench.tracking import NullTracker, RunInfo, Tracker
from bench.training import targets
from bench.training.accounting import Cost, measure_cost
from bench.training.divergence import DivergedError
from bench.training.parallel import Team, rank_device
from bench.training.progress import make_progress
from bench.training.turn import CompileLock

# Costs that this process has measured, by the runs' ``compile_key`` and their device.
_costs: dict[tuple[str, str], Cost] = {}


def make_loop(
    run_config: RunConfig, folder: RunFolder, data: Data, tracker: Tracker, team: Team
) -> Loop:
    """Build model, optimizer and schedule on this rank's device, each from its own seed."""
    trainer = run_config.trainer
    device = rank_device(choose_device(trainer.device), team.rank)
    data = data.to(device)
    memory_format = choose_memory_format(trainer.channels_last, device)
    model = experiment.seeded_model(run_config, experiment.shape_of(data))
    model = model.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    cost = None
    if trainer.accounting and team.leads:
        compile_lock = _compile_lock("cost", run_config, folder, team, device)
        cost = _cost(run_config, model, data, device, compile_lock)
    model = team.synchronise_norms(model, device)
    optimizer = build_optimizer(run_config.optimizer, model)
    total_steps = data.steps_per_epoch(trainer.batch_size) * trainer.epochs
    schedule = build_schedule(run_config.schedule, optimizer, total_steps)
    torch.manual_seed(noise_seed(run_config, team))
    style = trainer.progress if team.leads else "none"
    return Loop(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        data=data,
        device=device,
        config=trainer,
        seed=run_config.seed,
        precision=choose_precision(trainer.precision, device),
        memory_format=memory_format,
        folder=folder,
        tracker=tracker,
        progress=make_progress(style, folder.path.name, trainer.epochs, total_steps),
        target=targets.find(run_config.target, run_config.names),
        cost=cost,
        team=team,
        compile_lock=_compile_lock("step", run_config, folder, team, device),
    )


def _compile_lock(
    what: str, run_config: RunConfig, folder: RunFolder, team: Team, device: torch.device
) -> CompileLock:
    """Return the compile lock; the ranks of one run, who need one another, have none.

    Locks lie beside torch's cache (`bench.device.prepare`): whoever shares it shares them.
    """
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    alone = run_config.trainer.compile and team.size == 1
    place = Path(cache) / "turns" if cache and alone else None
    say = functools.partial(team.say, folder.path.name)
    # A cache may be shared by machines of other GPUs, and sources edited: compiled anew.
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    parts = (run_config.model, run_config.optimizer)
    sources = [component_digests(part) for part in parts]
    return CompileLock(f"{what} {kind} {sources} {compile_key(run_config)}", place, say)


def noise_seed(run_config: RunConfig, team: Team, step: int = 0) -> int:
    """Seed of dropout and the like; each rank's own."""
    own = () if team.leads else (team.rank, step)
    return derive(run_config.seed, "noise", *own)


def _cost(
    run_config: RunConfig,
    model: nn.Module,
    data: Data,
    device: torch.device,
    compile_lock: CompileLock,
) -> Cost | None:
    """Measure a step's cost on a copy, once in this process for runs that differ by seed and rate.

    It takes seconds where an optimizer is compiled, more than a short run's training. A network
    that refuses to be copied or counted has none.
    """
    key = (compile_key(run_config), str(device))
    if key in _costs:
        return _costs[key]
    batch = next(data.train_batches(run_config.seed, 0, run_config.trainer.batch_size))
    make = functools.partial(build_optimizer, run_config.optimizer)
    try:
        with compile_lock:
            _costs[key] = measure_cost(model, make, batch)
    except Exception as error:  # of a network or an optimizer that is not ours, say
        warnings.warn(f"FLOPs and the optimizer's time are not measured: {error}", stacklevel=2)
        return None
    return _costs[key]


class _ReadFolder(RunFolder):
    """A run folder that another process writes."""

    def commit(self, history: list[Row], checkpoint: dict[str, Any]) -> None:
        """Leave it to rank 0."""

    def write_history(self, history: list[Row]) -> None:
        """Leave it to rank 0."""


def follow(team: Team, run_config: RunConfig, path: str) -> None:
    """Train as rank 0 does, from the same checkpoint, and write nothing."""
    prepare(run_config.trainer, choose_device(run_config.trainer.device), Path(run_config.data_dir))
    folder = _ReadFolder(Path(path))
    tracker = NullTracker(RunInfo(folder.path.name, None, {}, folder.path))
    loop = make_loop(run_config, folder, experiment.build_data(run_config), tracker, team)
    checkpoint = folder.load_checkpoint()
    if checkpoint is not None:
        loop.load_state_dict(checkpoint)
        torch.manual_seed(noise_seed(run_config, team, loop.step))
    with suppress(DivergedError, StopRequested):  # rank 0 says so
        loop.run()
