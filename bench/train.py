"""Train one run, or a grid of runs.

python -m bench.train optimizer=muon seed=3
python -m bench.train -m optimizer=adamw,muon seed=0,1,2
python -m bench.train -m +sweeps=digits
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from bench import cli, config, experiment, provenance
from bench.config import RunConfig
from bench.data.images import ImageData
from bench.identity import Identity, identify
from bench.loop import DivergedError, Loop
from bench.progress import make_progress
from bench.run import RunFolder, State
from bench.seeding import derive
from bench.summary import summarise
from bench.tracking import Guarded, RunInfo


def train(run_config: RunConfig) -> dict[str, Any]:
    """Carry out the run that ``run_config`` describes, or the rest of it; return its summary.

    A run that is done or diverged is not trained again.

    Raises:
        UserError: the data are missing, the batch does not fit, or another process has the run.
    """
    identity = identify(run_config)
    folder = RunFolder(Path(run_config.runs_dir) / identity.id)
    if folder.finished and folder.status.get("tracked"):
        _report(folder, "already ")
        return folder.summary
    data = None if folder.finished else experiment.build_data(run_config)
    folder.acquire()
    try:
        if data is not None:
            _train(run_config, identity, folder, data)
        else:
            _track_again(run_config, identity, folder)
    finally:
        folder.release()
    _report(folder)
    return folder.summary


def _train(
    run_config: RunConfig,
    identity: Identity,
    folder: RunFolder,
    data: ImageData,
) -> None:
    trainer = run_config.trainer
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    device = choose_device(trainer.device)
    precision = choose_precision(trainer.precision, device)
    memory_format = choose_memory_format(trainer.channels_last, device)

    data = data.to(device)
    model = experiment.seeded_model(run_config, experiment.shape_of(data))
    model = model.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    optimizer = experiment.build_optimizer(run_config.optimizer, model)
    total_steps = data.steps_per_epoch(trainer.batch_size) * trainer.epochs
    schedule = experiment.build_schedule(run_config.schedule, optimizer, total_steps)
    torch.manual_seed(derive(run_config.seed, "noise"))  # dropout and the like

    checkpoint = folder.load_checkpoint()
    source = provenance.collect(str(run_config.optimizer["_target_"]), device, precision)
    stored = stored_config(run_config, identity)
    folder.begin(stored, source)
    tracker = _tracker(run_config, identity, {**stored, "provenance": source})
    tracker.start()
    progress = make_progress(
        trainer.progress,
        identity.id,
        epochs=trainer.epochs,
        total_steps=total_steps,
        done_steps=checkpoint["step"] if checkpoint else 0,
    )
    loop = Loop(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        data=data,
        config=trainer,
        seed=run_config.seed,
        precision=precision,
        memory_format=memory_format,
        folder=folder,
        tracker=tracker,
        progress=progress,
    )
    if checkpoint is not None:
        loop.load_state_dict(checkpoint)
        print(f"{identity.id}: continues at step {loop.step} of {total_steps}", flush=True)

    state: State = "done"
    cause = None
    try:
        with progress:
            loop.run()
    except DivergedError as error:
        state, cause = "diverged", str(error)
        folder.write_history(loop.history)
    except BaseException as error:
        with suppress(OSError):
            reason = str(error).strip().splitlines() or [""]
            if isinstance(error, Exception):
                folder.set_status("failed", f"{type(error).__name__}: {reason[0]}")
        tracker.abandon()
        raise
    summary = summarise(
        state,
        loop.history,
        loop.clock,
        steps_per_epoch=loop.steps_per_epoch,
        batch_size=trainer.batch_size,
    )
    summary["parameters"] = sum(p.numel() for p in model.parameters())
    folder.finish(state, cause, summary)
    _hand_over(folder, tracker)


def _tracker(run_config: RunConfig, identity: Identity, stored: dict[str, Any]) -> Guarded:
    info = RunInfo(identity.id, run_config.sweep, stored, Path(run_config.runs_dir))
    return Guarded(instantiate(run_config.tracker)(info))


def _hand_over(folder: RunFolder, tracker: Guarded) -> None:
    """Give the tracker what it lacks of a finished run, and note that it has it."""
    tracker.log(folder.history())
    tracker.finish(folder.summary)
    status = folder.status
    folder.set_status(status["state"], status["cause"], tracked=tracker.healthy)


def _track_again(run_config: RunConfig, identity: Identity, folder: RunFolder) -> None:
    """Send a run that finished, but whose tracker was interrupted or out of reach."""
    source = folder.provenance["attempts"][-1]
    tracker = _tracker(run_config, identity, {**folder.config, "provenance": source})
    tracker.start()
    _hand_over(folder, tracker)


def stored_config(run_config: RunConfig, identity: Identity) -> dict[str, Any]:
    """Return what config.json holds: the config, with the run's id and variant."""
    return {
        "id": identity.id,
        "variant": identity.variant,
        **run_config.model_dump(mode="json"),
    }


def choose_device(device: str) -> torch.device:
    """Decide "auto": CUDA where there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def choose_precision(precision: str, device: torch.device) -> str:
    """Decide "auto": bf16 on CUDA, float32 elsewhere."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "float32"
    return precision


def choose_memory_format(channels_last: bool | str, device: torch.device) -> torch.memory_format:
    """Decide "auto": channels_last on CUDA."""
    wanted = device.type == "cuda" if channels_last == "auto" else bool(channels_last)
    return torch.channels_last if wanted else torch.contiguous_format


def _report(folder: RunFolder, already: str = "") -> None:
    status, summary = folder.status, folder.summary
    if status["state"] == "diverged":
        print(f"{folder.path.name}: {already}diverged, {status['cause']}", flush=True)
        return
    text = f"test accuracy {100 * summary['test/accuracy']:.2f} %"
    seconds = summary["clock/data_seconds"] + summary["clock/step_seconds"]
    print(f"{folder.path.name}: {already}done, {text}, {seconds:.1f} s of training", flush=True)


def task(composed: DictConfig) -> float | None:
    """Hydra's entry: run one composed config; return the validation accuracy at the best epoch."""
    summary = train(config.resolve(composed, HydraConfig.get().runtime.choices))
    best = summary.get("best/val_accuracy")
    return None if best is None else float(best)


if __name__ == "__main__":
    cli.main(task, config_name="train")
