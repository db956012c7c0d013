"""From a component's config to the component: model, optimizer, schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from bench.errors import UserError

_T = TypeVar("_T")


class Shape(NamedTuple):
    """What a model must know of its data."""

    in_channels: int
    num_classes: int
    image_size: int


TRIAL_SHAPE = Shape(in_channels=3, num_classes=10, image_size=32)  # for trial construction only


def build_model(component: dict[str, Any], shape: Shape) -> nn.Module:
    """Build a model; its initial weights come from torch's global generator."""
    return cast(nn.Module, instantiate(component, **shape._asdict()))


def build_optimizer(component: dict[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """Build an optimizer of ``model``.

    ``params``, where the config has it, is called with the model and gives the optimizer's first
    argument (parameter groups); otherwise that is ``model.parameters()``.
    """
    own = {key: value for key, value in component.items() if key != "params"}
    groups = component.get("params")
    parameters = instantiate(groups)(model) if groups else model.parameters()
    return cast(torch.optim.Optimizer, instantiate(own)(parameters))


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
        raise UserError(f"{where}: {reason}") from error
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise UserError(f"{where}: {str(error).strip().splitlines()[0]}") from error
