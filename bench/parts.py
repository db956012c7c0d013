"""From a run's config to its parts (data, model, optimizer, schedule), and from a run folder back.

Each is drawn from a seed of its own. A process may keep datasets from one run to the next.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from bench import trust
from bench.build import Shape, attempt, build_model, build_optimizer, build_schedule
from bench.config import RunConfig, first_problem
from bench.data.base import Data, MissingDataError
from bench.errors import MissingHereError, UserError
from bench.hydra_private import instantiate
from bench.run_folder import CONFIG, RunFolder
from bench.seeding import derive, noise_seed
from bench.setup import Setup
from bench.training.accounting import Cost, cost_of_run

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
    file = folder / CONFIG
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
    model = seeded_model(config, data.shape)
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


@dataclass(frozen=True)
class Parts:
    """What a run trains and with what, on its device.

    Attributes:
        data: gives float [B, C, H, W] or int64 [B, T] inputs, int64 targets [B] or [B, T].
        model: in the memory format that it is to run in, in train mode.
        cost: of a step; None where it was not measured.
    """

    data: Data
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    cost: Cost | None = None


def build_parts(setup: Setup, data: Data) -> Parts:
    """Build a run's parts on this process's device, each from its own seed."""
    config, trainer = setup.config, setup.config.trainer
    data = data.to(setup.device)
    model = seeded_model(config, data.shape)
    model = model.to(device=setup.device, memory_format=setup.memory_format)  # type: ignore[call-overload]
    cost = cost_of_run(setup, model, data) if trainer.accounting and setup.team.leads else None
    model = setup.team.synchronise_norms(model, setup.device)
    optimizer = build_optimizer(config.optimizer, model)
    total_steps = data.steps_per_epoch(trainer.batch_size) * trainer.epochs
    schedule = build_schedule(config.schedule, optimizer, total_steps)
    torch.manual_seed(noise_seed(config.seed, setup.team.rank))
    return Parts(data, model, optimizer, schedule, cost)
