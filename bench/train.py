"""Train one run, or a grid of runs.

spectral-bench train optimizer=muon seed=3
spectral-bench train -m optimizer=adamw,muon seed=0,1,2
spectral-bench train -m +sweeps=digits

Of what kind a failure is: what a table of failures says beside the error itself.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bench import cli, config, parts, provenance
from bench.config import RunConfig
from bench.data.base import Data
from bench.hydra_private import instantiate
from bench.identity import Identity, identify, tracker_label
from bench.loop import Loop
from bench.parts import follow, make_loop
from bench.run_folder import Kind, RunFolder, State, result_line
from bench.setup import choose_device, choose_precision, compile_key, prepare
from bench.tracking import Guarded, RunInfo
from bench.training import parallel
from bench.training.losses import DivergedError

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
        UserError: the data are missing, the batch does not fit, or another process has the run.
    """
    identity = identify(run_config)
    folder = RunFolder(Path(run_config.runs_dir) / identity.id)
    if folder.finished and tracker_label(run_config) in folder.tracked:
        _report(folder, "already ")
        return folder.summary
    data = parts.build_data(run_config)  # before the folder exists: it may be missing
    folder.acquire(patient=patient)
    try:
        if folder.finished:
            _track_again(run_config, identity, folder)
        else:
            _train(run_config, identity, folder, data)
    finally:
        folder.release()
    _report(folder)
    return folder.summary


def _train(run_config: RunConfig, identity: Identity, folder: RunFolder, data: Data) -> None:
    """Train from the newest checkpoint to the end, and write down how it ended."""
    trainer = run_config.trainer
    device = choose_device(trainer.device)
    parallel.check(trainer, device)
    prepare(trainer, device, Path(run_config.data_dir), compile_key(run_config))
    precision = choose_precision(trainer.precision, device)
    source = provenance.collect(run_config.optimizer, device, precision)
    source["data"] = parts.origin_of(data)
    stored = stored_config(run_config, identity)
    tracker = _tracker(run_config, identity, {**stored, "provenance": source})
    with parallel.team(trainer, device, follow, run_config, str(folder.path)) as team:
        loop = make_loop(run_config, folder, data, tracker, team)
        checkpoint = folder.load_checkpoint()
        folder.begin(stored, source)
        tracker.start()
        state, cause = _carry_out(loop, checkpoint, folder, tracker)
        summary = loop.summary(state)
    folder.finish(state, cause, summary)
    _hand_over(run_config, folder, tracker)


def _carry_out(
    loop: Loop, checkpoint: dict[str, Any] | None, folder: RunFolder, tracker: Guarded
) -> tuple[State, str | None]:
    """Run the loop from ``checkpoint`` to its end; return how it ended, and why."""
    try:
        if checkpoint is not None:
            loop.load_state_dict(checkpoint)
            at = f"continues at step {loop.step} of {loop.total_steps}"
            print(f"{folder.path.name}: {at}", flush=True)
        loop.run()
    except DivergedError as error:
        folder.write_history(loop.history)
        return "diverged", str(error)
    except Exception as error:
        cause = loop.team.first_error(error)
        with suppress(OSError):  # a full disk must not hide the error
            folder.set_status("failed", reason_of(cause), kind=kind_of(cause))
        tracker.abandon(failed=True)
        if cause is error:
            raise
        raise cause from error
    except BaseException:  # interrupted: still "running", to be continued
        tracker.abandon(failed=False)
        raise
    return "done", None


def _tracker(run_config: RunConfig, identity: Identity, stored: dict[str, Any]) -> Guarded:
    info = RunInfo(identity.id, run_config.sweep, stored, Path(run_config.runs_dir))
    return Guarded(instantiate(run_config.tracker)(info))


def _hand_over(run_config: RunConfig, folder: RunFolder, tracker: Guarded) -> None:
    """Give the tracker what it lacks of a finished run, and note that it has it."""
    tracker.log(folder.history())
    tracker.finish(folder.summary)
    if tracker.healthy:
        folder.add_tracked(tracker_label(run_config))


def _track_again(run_config: RunConfig, identity: Identity, folder: RunFolder) -> None:
    """Send a run that finished, but whose tracker was interrupted or out of reach."""
    source = folder.provenance["attempts"][-1]
    tracker = _tracker(run_config, identity, {**folder.config, "provenance": source})
    tracker.start()
    _hand_over(run_config, folder, tracker)


def stored_config(run_config: RunConfig, identity: Identity) -> dict[str, Any]:
    """Return what config.json holds: the config, with the run's id and variant."""
    return {
        "id": identity.id,
        "variant": identity.variant,
        **run_config.model_dump(mode="json"),
    }


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
