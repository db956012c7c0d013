"""From a component's config to the component: model, optimizer, schedule."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import torch
from hydra.errors import InstantiationException
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from bench.errors import MissingHereError, UserError
from bench.hydra_private import instantiate
from bench.public_names import current

_T = TypeVar("_T")
_PLAIN = {"_convert_": "all"}


class ImageShape(NamedTuple):
    """What a model must know of its data: batches are float32 [B, C, H, H] with int64 [B]."""

    in_channels: int
    num_classes: int
    image_size: int


class TokenShape(NamedTuple):
    """What a model must know of its data: batches are int64 [B, T] with int64 [B, T] or [B].

    Targets are the next tokens [B, T] (then ``num_classes`` is ``vocab_size``) or classes [B].
    """

    vocab_size: int
    context_length: int
    num_classes: int


Shape: TypeAlias = ImageShape | TokenShape
# What each kind is called, and one of it for the trial construction on unknown data.
CONTENT: dict[type[Shape], str] = {ImageShape: "images", TokenShape: "tokens"}
TRIAL_SHAPES: dict[type[Shape], Shape] = {
    ImageShape: ImageShape(in_channels=3, num_classes=10, image_size=32),
    TokenShape: TokenShape(vocab_size=256, context_length=64, num_classes=256),
}


def taken_kinds(model: Callable[..., Any]) -> list[type[Shape]]:
    """Return the kinds of shape whose fields ``model`` takes as keyword arguments by name."""
    parameters = inspect.signature(model).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return list(CONTENT)
    return [kind for kind in CONTENT if set(kind._fields) <= set(parameters)]


def companion(target: str, name: str) -> Callable[..., Any] | None:
    """Return the function ``name`` that stands beside ``target`` in its module, None without."""
    function = getattr(pkgutil.resolve_name(current(target).rpartition(".")[0]), name, None)
    return cast("Callable[..., Any] | None", function)


def declared_shape(component: dict[str, Any]) -> Shape | None:
    """Return the shape of a dataset's samples from its config alone, None if it does not say.

    A dataset says by a function ``shape(**options)`` beside its ``_target_``; no file is read.
    """
    shape = companion(str(component["_target_"]), "shape")
    options = {key: value for key, value in component.items() if key != "_target_"}
    return None if shape is None else cast("Shape", shape(**options))


def build_model(component: dict[str, Any], shape: Shape) -> nn.Module:
    """Build a model; its initial weights come from torch's global generator."""
    return cast(nn.Module, instantiate(component, **shape._asdict()))


def build_optimizer(component: dict[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """Build an optimizer of ``model``.

    ``params``, where the config has it, is called with the model and gives the optimizer's first
    argument (parameter groups); otherwise that is ``model.parameters()``. Lists and mappings reach
    the optimizer as plain ones, since it keeps them in its state, which must load without code.
    """
    own = {key: value for key, value in component.items() if key != "params"}
    groups = component.get("params")
    parameters = instantiate(groups, **_PLAIN)(model) if groups else model.parameters()
    return cast(torch.optim.Optimizer, instantiate(own, **_PLAIN)(parameters))


def build_schedule(
    component: dict[str, Any], optimizer: torch.optim.Optimizer, total_steps: int
) -> LambdaLR:
    """Build the schedule, which scales each parameter group's own learning rate."""
    return LambdaLR(optimizer, instantiate(component)(total_steps))


def attempt(where: str, build: Callable[[], _T]) -> _T:
    """Return ``build()``; what it refuses becomes a UserError that starts with ``where``."""
    try:
        return build()
    except InstantiationException as error:
        cause = error.__cause__ or error
        reason = (str(cause).strip().splitlines() or [""])[0]
        if not isinstance(cause, ValueError | TypeError | OSError):  # a bare KeyError says little
            reason = f"{type(cause).__name__}: {reason}"
        kind = MissingHereError if isinstance(cause, FileNotFoundError) else UserError
        raise kind(f"{where}: {reason}") from error
    except (ValueError, TypeError, FileNotFoundError) as error:
        kind = MissingHereError if isinstance(error, FileNotFoundError) else UserError
        raise kind(f"{where}: {str(error).strip().splitlines()[0]}") from error
