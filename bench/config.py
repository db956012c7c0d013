"""The typed schema of one run, and the step from Hydra's composed config to it.

Hydra composes; pydantic checks types and ranges; ``bench.components`` checks what each
``_target_`` accepts. Everything wrong with a config is a UserError of one line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import torch
from hydra import compose
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from bench import build, components
from bench.compose import composing
from bench.errors import UserError, suggestion
from bench.hydra_private import instantiate
from bench.training.target import Target
from bench.tuning import settings

# The groups of which a run is composed; each choice's name is kept for tables and run names.
GROUPS = ("model", "dataset", "optimizer", "schedule", "trainer", "tracker")
# Those that are built from a _target_; the trainer's options are the bench's own.
_COMPONENTS = tuple(group for group in GROUPS if group != "trainer")

# Every so many epochs, or these epochs.
Epochs = Annotated[int, Field(gt=0)] | list[Annotated[int, Field(ge=0)]]
Component = Annotated[dict[str, Any], Field(description="a mapping with a _target_")]


class _Strict(BaseModel):
    # Strict, or `seed=true` would be seed 1.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


def absent(device: str) -> str | None:
    """Return why this machine has no such device; None where it has, "auto" among them."""
    if device == "auto":
        return None
    parsed, count = torch.device(device), torch.cuda.device_count()
    if parsed.type != "cuda" or (parsed.index or 0) < count:
        return None
    return f"{device!r} is not here ({count} CUDA devices); use auto or cpu"


class TrainerConfig(_Strict):
    """How a model is trained; the defaults live in conf/trainer/."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    eval_batch_size: int = Field(gt=0)
    label_smoothing: float = Field(ge=0, lt=1)
    grad_clip: float | None = Field(gt=0)
    precision: Literal["auto", "float32", "bf16"]
    channels_last: bool | Literal["auto"]
    compile: bool
    cuda_graph: bool | Literal["auto"]
    device: str
    devices: int = Field(gt=0)
    threads: int | None = Field(gt=0)
    log_every: int = Field(gt=0)
    checkpoint_every: int | None = Field(gt=0)
    checkpoint_seconds: float = Field(default=10.0, ge=0)  # runs from before it have none
    evaluate_every: int | None = Field(default=None, gt=0)
    evaluate_samples: int = Field(default=1000, gt=0)
    accounting: bool
    progress: Literal["auto", "bar", "lines", "none"]
    curvature_every: Epochs | None = None
    curvature: Component | None = None

    @field_validator("device")
    @classmethod
    def _device_exists(cls, device: str, info: ValidationInfo) -> str:
        elsewhere = bool(info.context and info.context.get("elsewhere"))
        if device == "auto":
            return device
        try:
            parsed = torch.device(device)
        except RuntimeError as error:
            known = suggestion(device, ["auto", "cpu", "cuda", "cuda:0"])
            raise ValueError(f"{device!r} is not a device; {known}") from error
        if not elsewhere and (reason := absent(device)):
            raise ValueError(reason)
        if parsed.type not in ("cpu", "cuda"):
            raise ValueError(f"{device!r} is not supported; {suggestion(device, ['cpu', 'cuda'])}")
        return device


class RunConfig(_Strict):
    """One run, whole: what conf/train.yaml composes, resolved."""

    model: Component
    dataset: Component
    optimizer: Component
    schedule: Component
    trainer: TrainerConfig
    tracker: Component
    seed: int = Field(ge=0)
    sweep: str | None
    runs_dir: str = Field(min_length=1)
    data_dir: str = Field(min_length=1)
    exponents: str | None
    tuned: bool | str = False
    target: Target | Literal["auto"] | None = "auto"
    names: dict[str, str]

    @property
    def components(self) -> dict[str, dict[str, Any]]:
        """What is built from a ``_target_``, by group."""
        return {group: getattr(self, group) for group in _COMPONENTS}


def resolve(
    composed: DictConfig, choices: Mapping[str, str], given: Collection[str] = ()
) -> RunConfig:
    """Check a composed config and return it typed, with every default written out.

    Args:
        composed: the config without its ``hydra`` node.
        choices: the chosen file of each group (``hydra.runtime.choices``).
        given: keys with a value of the user's own, which tuned settings do not replace.

    Raises:
        UserError: an impossible value, a wrong type or an unknown key, named by its dotted path.
    """
    config = typed(settings.settle(container(composed), choices, given), choices)
    components.try_out(config.components, config.names)
    return with_curvature(config)


def with_curvature(config: RunConfig) -> RunConfig:
    """Return a config that measures curvature with the defaults of what measures it; check that.

    Raises:
        UserError: nothing is there to measure it, or it cannot be built.
    """
    if config.trainer.curvature_every is None:
        return config
    where, component = "trainer.curvature", config.trainer.curvature
    if component is None:
        raise UserError(f"{where}: missing, but trainer.curvature_every asks for it")
    checked = components.complete({where: component})[where]
    build.attempt(where, lambda: instantiate(checked))
    trainer = config.trainer.model_copy(update={"curvature": checked})
    return config.model_copy(update={"trainer": trainer})


def container(composed: DictConfig) -> dict[str, Any]:
    """Return a composed config as plain values, interpolations resolved.

    Raises:
        UserError: a value is missing, or refers to what is not there.
    """
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None) or "config"
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def typed(
    values: Mapping[str, Any],
    choices: Mapping[str, str],
    *,
    elsewhere: bool = False,
    known: components.Known | None = None,
) -> RunConfig:
    """As ``resolve`` from plain values, without a trial construction of the components.

    ``elsewhere``: another machine will run it, so that its device need not be here. ``known``
    collects the components of earlier calls.
    """
    values = dict(values)
    if "names" in values:  # ours to fill in
        raise UserError(f"names: unknown key; {suggestion('names', _top_level())}")
    try:
        json.dumps(values, allow_nan=False)  # fast; the walk below is only to say where
    except ValueError:
        _refuse_non_finite(values, "")
    values["names"] = {group: str(choices.get(group)) for group in GROUPS}
    try:
        config = RunConfig.model_validate(values, context={"elsewhere": elsewhere})
    except ValidationError as error:
        raise UserError(first_problem(error)) from error
    if config.tuned:
        settings.check_seed(config.seed)
    return config.model_copy(update=components.complete(config.components, config.names, known))


def _top_level() -> list[str]:
    return [key for key in RunConfig.model_fields if key != "names"]


def _refuse_non_finite(value: Any, where: str) -> None:
    """Raise UserError for nan and inf, wherever they are; JSON, hence the run's id, has neither."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {value} is not a finite number; give one")
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, item in value.items() if isinstance(value, dict) else ():
        _refuse_non_finite(item, f"{where}.{key}" if where else str(key))


def first_problem(error: ValidationError) -> str:
    """Return one line for the first error that pydantic found in a `RunConfig`."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    if location[0] == "trainer":  # what follows the key is a branch of a union
        location = location[:2]
    if location[0] == "target":
        return 'target: write auto, null, or for example "{metric: val/accuracy, value: 0.9}"'
    where = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = list(TrainerConfig.model_fields) if len(location) > 1 else _top_level()
        return f"{where}: unknown key; {suggestion(location[-1], known)}"
    if problem["type"] == "missing":
        return f"{where}: missing; give it a value"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if problem["type"] == "value_error":
        return f"{where}: {message}"
    field = TrainerConfig.model_fields.get(location[-1])
    choices = [str(choice).lower() for choice in _literals(field.annotation if field else None)]
    if choices:
        given = problem["input"]
        return f"{where}: {given!r} is not valid; {suggestion(str(given), choices)}"
    return f"{where}: {message}, not {problem['input']!r}"


def _literals(annotation: Any) -> list[Any]:
    literals: list[Any] = [True, False] if annotation is bool else []
    for argument in get_args(annotation):
        literals += [argument] if isinstance(argument, str) else _literals(argument)
    return literals


def load(overrides: Sequence[str] = ()) -> RunConfig:
    """Compose and check ``conf/train.yaml`` with ``overrides`` outside of a Hydra application."""
    with composing():
        composed = compose("train", overrides=list(overrides), return_hydra_config=True)
    return from_hydra(composed)


def from_hydra(composed: DictConfig) -> RunConfig:
    """Split Hydra's own node off a composed config and resolve the rest."""
    hydra = composed.hydra
    return resolve(without_hydra(composed), hydra.runtime.choices, keys_of(hydra.overrides.task))


def keys_of(overrides: Sequence[str] | ListConfig) -> set[str]:
    """Return the keys to which overrides give values."""
    if isinstance(overrides, ListConfig):
        overrides = texts_of(overrides)
    return {word.partition("=")[0].lstrip("+~") for word in overrides}


def texts_of(overrides: ListConfig) -> list[str]:
    """Return overrides as they were written: what looks like an interpolation is not resolved."""
    plain = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(plain, list)
    return [str(word) for word in plain]


def without_hydra(composed: DictConfig) -> DictConfig:
    """Return a composed config without Hydra's own node, and without what is a study's own."""
    own = [str(key) for key in composed if key not in ("hydra", "study")]
    return OmegaConf.masked_copy(composed, own)
