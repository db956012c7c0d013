"""What the contract tests of all shipped optimizers share: the files, and how to compare."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from bench import errors

FILES = sorted((Path(__file__).parents[2] / "conf" / "optimizer").glob("*.yaml"))


@functools.cache
def content(file: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(file), resolve=False)


def components(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a config that has a ``_target_``, by its place, the whole first."""
    config = content(file)
    yield "", config
    for key, value in config.items():
        if isinstance(value, dict) and "_target_" in value:
            yield f"{key}.", value


def missing_extra(file: Path) -> str | None:
    """How to install what a file's components need and is not here; None if all is."""
    for _, component in components(file):
        module = component["_target_"].rpartition(".")[0]
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            return errors.needed(error) or str(error)
    return None


def train(problem: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        losses.append(problem.gradients())
        optimizer.step()
    return losses


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def equal(a: Any, b: Any) -> bool:
    """Equal bits and types, through containers."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b
