"""Train one run, or a grid of runs.

spectral-bench train optimizer=muon seed=3
spectral-bench train -m optimizer=adamw,muon seed=0,1,2
spectral-bench train -m +sweeps=digits
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bench import cli, config, provenance
from bench.config import RunConfig
from bench.data.base import Data
from bench.loop import Loop
from bench.parts import build_data, build_parts
from bench.preemption import StopRequested
from bench.run_folder import Kind, RunFolder, State, result_line
from bench.seeding import noise_seed
from bench.setup import Setup
from bench.tracking import NullTracker, RunInfo, Tracker, open_tracker
from bench.training import parallel
from bench.training.losses import DivergedError
from bench.training.parallel import Team

_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def kind_of(error: BaseException) -> Kind:
    """Return the kind of an error that ended a run: memory has many names, the rest is one."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out of memory"
    text = str(error).lower()
    if isinstance(error, RuntimeError | OSError) and any(name in text for name in _MEMORY):
        return "out of memory"
    return "exception"


def reason_of(error: BaseException) -> str:
    """Return the last line of the error's traceback, cut at the end of its first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def train(run_config: RunConfig, *, patient: bool = False) -> dict[str, Any]:
    """Carry out the run that ``run_config`` describes, or the rest of it; return its summary.

    A run that is done or diverged is not trained again. ``patient``: see ``RunFolder.acquire``.

    Raises:
        UserError: the data are missing, the batch does not fit, this machine cannot do what the
            config asks for, or another process has the run.
    """
    setup = Setup.of(run_config)
    folder = RunFolder(setup.folder)
    if folder.finished and setup.tracker_label in folder.tracked:
        _report(folder, "already ")
        return folder.summary
    # Before the folder exists: data may be missing, or what the machine is asked for.
    data = build_data(run_config)
    if not folder.finished:
        setup.check()
    with folder.held(patient=patient):
        if folder.finished:  # but its tracker was interrupted, or out of reach
            tracker = open_tracker(setup, folder.config, folder.provenance["attempts"][-1])
            tracker.start()
        else:
            setup.prepare()
            source = provenance.collect(setup, data)
            tracker = open_tracker(setup, setup.stored, source)
            _train(setup, data, folder, tracker, source)
        tracker.log(folder.history())
        tracker.finish(folder.summary)
        if tracker.healthy:
            folder.add_tracked(setup.tracker_label)
    _report(folder)
    return folder.summary


def _train(
    setup: Setup, data: Data, folder: RunFolder, tracker: Tracker, source: dict[str, Any]
) -> None:
    """Train from the newest checkpoint to the end, and write down how it ended."""
    devices = (setup.config.trainer.devices, setup.device.type)
    with parallel.team(*devices, follow, setup, folder.path) as team:
        setup = setup.joined(team)
        loop = Loop(setup, build_parts(setup, data), folder, tracker)
        checkpoint = folder.load_checkpoint()
        folder.begin(setup.stored, source)
        tracker.start()
        state, cause = _carry_out(loop, checkpoint)
        summary = loop.summary(state)
    folder.finish(state, cause, summary)


def follow(team: Team, setup: Setup, path: Path) -> None:
    """Train as rank 0 does, from the same checkpoint, and write nothing."""
    setup = setup.joined(team)
    setup.prepare()
    folder, tracker = RunFolder(path), NullTracker(RunInfo(path.name, None, {}, path))
    loop = Loop(setup, build_parts(setup, build_data(setup.config)), folder, tracker)
    checkpoint = folder.load_checkpoint()
    if checkpoint is not None:
        loop.load_state_dict(checkpoint)
        torch.manual_seed(noise_seed(setup.config.seed, team.rank, loop.step))
    with suppress(DivergedError, StopRequested):  # rank 0 reports it
        loop.run()


def _carry_out(loop: Loop, checkpoint: dict[str, Any] | None) -> tuple[State, str | None]:
    """Run the loop from ``checkpoint`` to its end; return how it ended, and why."""
    try:
        if checkpoint is not None:
            loop.load_state_dict(checkpoint)
            loop.setup.note(f"continues at step {loop.step} of {loop.total_steps}")
        loop.run()
    except DivergedError as error:
        loop.folder.write_history(loop.history)
        return "diverged", str(error)
    except Exception as error:
        cause = loop.team.first_error(error)
        with suppress(OSError):  # a full disk must not hide the error
            loop.folder.set_status("failed", reason_of(cause), kind=kind_of(cause))
        loop.tracker.abandon(failed=True)
        if cause is error:
            raise
        raise cause from error
    except BaseException:  # interrupted: still "running", to be continued
        loop.tracker.abandon(failed=False)
        raise
    return "done", None


def _report(folder: RunFolder, already: str = "") -> None:
    print(f"{folder.path.name}: {already}{result_line(folder)}", flush=True)


def task(composed: DictConfig) -> float | None:
    """Hydra's entry: run one composed config; return the validation accuracy at the best epoch."""
    hydra = HydraConfig.get()
    own, given = config.without_hydra(composed), config.keys_of(hydra.overrides.task)
    summary = train(config.resolve(own, hydra.runtime.choices, given))
    best = summary.get("best/val_accuracy")
    return None if best is None else float(best)


if __name__ == "__main__":
    cli.main(task, config_name="train")
