"""From a run's config to its training loop, in this process and in those that follow it.

Datasets that a process keeps in memory from one run to the next, within a budget.

From a config to its parts (data, model, optimizer, schedule), and from a run folder back.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bench import trust
from bench.build import Shape, attempt, build_model, build_optimizer, build_schedule
from bench.config import RunConfig, first_problem
from bench.data.base import Data, MissingDataError
from bench.digest import component_digests
from bench.errors import MissingHereError, UserError
from bench.hydra_private import instantiate
from bench.loop import Loop
from bench.preemption import StopRequested
from bench.run_folder import Row, RunFolder
from bench.seeding import derive
from bench.setup import choose_device, choose_memory_format, choose_precision, compile_key, prepare
from bench.tracking import NullTracker, RunInfo, Tracker
from bench.training import summary
from bench.training.accounting import Cost, measure_cost
from bench.training.compile_lock import CompileLock
from bench.training.losses import DivergedError
from bench.training.parallel import Team, rank_device
from bench.training.progress import make_progress

BUDGET = 2 * 2**30  # bytes: five seeds of CIFAR, one of Tiny-ImageNet


class KeptData:
    """The datasets used last, as many as fit into ``budget`` bytes, and the newest in any case."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        """Return what is kept under ``key``, or else ``load()``, which is kept from now on."""
        if key not in self._kept:
            self._kept[key] = load()
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(map(bytes_of, self._kept.values())) > self._budget:
            self._kept.popitem(last=False)
        return self._kept[key]


def bytes_of(data: Any) -> int:
    """Return the size of the tensors in a dataset, through dataclasses within it."""
    if isinstance(data, Tensor):
        return data.nbytes
    if dataclasses.is_dataclass(data):
        return sum(bytes_of(getattr(data, field.name)) for field in dataclasses.fields(data))
    return 0


_kept: KeptData | None = None


@contextmanager
def keeping_data() -> Iterator[None]:
    """Keep datasets in memory for the runs to come: a run only reads them."""
    global _kept  # noqa: PLW0603  (memory is the process's own)
    before = _kept
    _kept = before or KeptData()
    try:
        yield
    finally:
        _kept = before


def _load(dataset: dict[str, Any], root: str, seed: int) -> Any:
    load = functools.partial(instantiate, dataset, root=Path(root), seed=seed)
    return _kept.get((json.dumps(dataset), root, seed), load) if _kept else load()


def build_data(config: RunConfig) -> Data:
    """Load the run's dataset, split by its seed.

    Raises:
        UserError: the data are missing (with the command that gets them), or the batch is larger.
    """
    choice = config.names.get("dataset")
    try:
        data = _load(config.dataset, config.data_dir, config.seed)
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, MissingDataError):
            raise MissingHereError(str(cause)) from error
        if isinstance(cause, ValueError):
            raise UserError(f"dataset={choice}: {cause}") from error
        raise
    if not isinstance(data, Data):
        raise UserError(f"dataset={choice}: {config.dataset['_target_']} gives no data")
    try:
        data.check_batch_size(config.trainer.batch_size)
    except ValueError as error:
        raise UserError(f"trainer.batch_size: {error}") from error
    return data


def shape_of(data: Data) -> Shape:
    """Return what a model must know of ``data``."""
    return data.shape


def origin_of(data: Data) -> str | None:
    """Return where ``data`` come from, with a checksum; None where the config says it all."""
    return getattr(data, "origin", None)


def seeded_model(config: RunConfig, shape: Shape) -> nn.Module:
    """Build the run's model with the initial weights of its seed."""
    torch.manual_seed(derive(config.seed, "init"))
    return attempt("model", functools.partial(build_model, config.model, shape))


@dataclass(frozen=True)
class Restored:
    """A run's network with its data, rebuilt from its folder, on the CPU and in eval mode."""

    model: nn.Module
    data: Data
    config: dict[str, Any]
    step: int
    epoch: float

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Return the first ``size`` training samples, unaugmented: see `bench.data.base.Data`."""
        return next(self.data.eval_batches("train", min(size, self.data.size("train"))))


def restore(
    folder: Path,
    at: Literal["trained", "start"] = "trained",
    trusted: Collection[str] = (),
) -> Restored:
    """Rebuild the network and the data of the run in ``folder``.

    The run may be anybody's: its config is data, and may name only what `bench.trust` allows.

    Args:
        folder: the run folder.
        at: the weights of the newest checkpoint, or those that the run's seed drew at its start,
            for which no checkpoint is needed.
        trusted: packages whose code the run's config may name, beside what `bench.trust` allows.

    Raises:
        UserError: ``folder`` holds no run, no checkpoint that can be read and fits, or a config
            that names code which is not allowed.
    """
    run = RunFolder(folder)
    stored = run.config
    if not stored:
        raise UserError(f"{folder}: not a run folder (no readable config.json)")
    file = folder / "config.json"
    trust.check(stored, file, trusted)
    try:
        config = RunConfig.model_validate(
            {key: stored[key] for key in RunConfig.model_fields if key in stored}
        )
    except ValidationError as error:
        raise UserError(f"{file}: {first_problem(error)}") from error
    step, weights = 0, None
    if at == "trained":
        checkpoint = run.load_checkpoint()
        if checkpoint is None:
            raise UserError(f"{folder}: no readable checkpoint; run it again to make one")
        step, weights = int(checkpoint["step"]), checkpoint["model"]
    data = attempt(f"{file}: dataset", functools.partial(build_data, config))
    model = seeded_model(config, shape_of(data))
    if not isinstance(model, nn.Module):
        raise UserError(f"{file}: model: {config.model['_target_']} gives no network")
    if weights is not None:
        _load_weights(model, weights, folder)
    epoch = step / data.steps_per_epoch(config.trainer.batch_size)
    return Restored(model.eval(), data, stored, step, epoch)


def _load_weights(model: nn.Module, weights: Any, folder: Path) -> None:
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:  # RuntimeError: other names or shapes
        raise UserError(
            f"{folder}: its checkpoint does not fit the network of its config.json"
        ) from error


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
    model = seeded_model(run_config, shape_of(data))
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
        target=summary.find(run_config.target, run_config.names),
        cost=cost,
        team=team,
        compile_lock=_compile_lock("step", run_config, folder, team, device),
    )


def _compile_lock(
    what: str, run_config: RunConfig, folder: RunFolder, team: Team, device: torch.device
) -> CompileLock:
    """Return the compile lock; the ranks of one run, who need one another, have none.

    Locks lie beside torch's cache (`bench.setup.prepare`): whoever shares it shares them.
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
    loop = make_loop(run_config, folder, build_data(run_config), tracker, team)
    checkpoint = folder.load_checkpoint()
    if checkpoint is not None:
        loop.load_state_dict(checkpoint)
        torch.manual_seed(noise_seed(run_config, team, loop.step))
    with suppress(DivergedError, StopRequested):  # rank 0 says so
        loop.run()
