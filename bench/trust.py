"""Which code a stored config may name: that of a run folder, whoever made it and however it came.

A config that the user composes is the user's own code. One that was stored is data, perhaps
somebody else's: before a part of it is built, all of it is checked here, and nothing is imported
for a name that is not allowed. Allowed are

- every ``_target_`` that a YAML file of this user names, in conf/ and sweeps/;
- networks, optimizers and schedules of torch.nn, torch.optim and the packages that these files
  name: classes, and functions annotated to return one;
- everything that a package defines which the user trusts by name (``--trust=<package>``).
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from bench import files
from bench.compose import register_resolvers
from bench.errors import UserError
from bench.public_names import canonical

_NAMED = re.compile(r"_target_[\"']?\s*[:=]\s*[\"']?([\w.,]+)")
_COMMENT = re.compile(r"(^|\s)#.*")
# No part that begins with an underscore: those lead from any object to any other.
_DOTTED = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", re.ASCII)
_TORCH = ("torch.nn", "torch.optim")
_KINDS = (nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
# Of these only single names are components; a whole package would hold what runs or writes things.
_NEVER_WHOLE = frozenset(
    {"torch", "hydra", "omegaconf", "bench", "optimizers", "analysis", "hydra_plugins"}
    | sys.stdlib_module_names
)
_LONGEST = 100  # characters of a name that a message repeats


def check(stored: Mapping[str, Any], where: str | Path, trusted: Collection[str] = ()) -> None:
    """Refuse a stored config that names code which is not allowed, at any depth.

    Args:
        stored: the whole config, as it was read.
        where: what it was read from, for the message.
        trusted: packages or modules that the user trusts.

    Raises:
        UserError: a ``_target_`` that is not allowed, named with its place; an interpolation, which
            a stored config has none of; or a name in ``trusted`` that cannot be trusted as a whole.
    """
    check_trusted(trusted)
    named = named_targets()
    packages = {target.partition(".")[0] for target in named} - _NEVER_WHOLE
    homes = (*_TORCH, *sorted(packages))
    unnamed = []
    for place, value in _leaves(stored):
        if isinstance(value, str) and ("${" in value or value == "???"):
            raise UserError(
                f"{where}: {place} is {_short(value)}: a stored config holds plain values, no"
                " interpolation; nothing of it was used"
            )
        if not _names_code(place):
            continue
        if not isinstance(value, str):
            raise UserError(f"{where}: {place} is {_short(value)}, no name of a component")
        if canonical(value) in named:
            continue
        if not _DOTTED.fullmatch(value) or not _within(value, (*homes, *trusted)):
            raise UserError(
                f"{where}: {place} names {_short(value)}, which no YAML file in"
                f" {files.conf_dir()} names; it was not imported; {_remedy(value)}"
            )
        unnamed.append((place, value))
    for place, target in unnamed:  # only now: the last name may be the one that is refused
        _check_object(target, f"{where}: {place}", homes, trusted)


def check_trusted(trusted: Collection[str]) -> None:
    """Raise UserError unless each name is that of a package that can be trusted as a whole."""
    for name in trusted:
        if not _DOTTED.fullmatch(name):
            raise UserError(f"trust={name}: write the name of a package, as in trust=mypackage")
        if name.partition(".")[0] in _NEVER_WHOLE:
            raise UserError(
                f"trust={name}: not everything in it is a component; name the one that you need as"
                f" a _target_ in a YAML file in {files.conf_dir()}"
            )


def named_targets() -> frozenset[str]:
    """Return every ``_target_`` that a YAML file in conf/ or sweeps/ names, Hydra's own apart."""
    targets: set[str] = set()
    for folder in _folders():
        for file in folder.rglob("*.yaml"):
            if file.relative_to(folder).parts[0] == "hydra":  # launchers and sweepers
                continue
            lines = file.read_text(errors="replace").splitlines()
            for text in (_COMMENT.sub("", line) for line in lines if "_target_" in line):
                targets.update(one for names in _NAMED.findall(text) for one in names.split(","))
    return frozenset(canonical(name) for name in targets - {""})


def _folders() -> Iterator[Path]:
    """Yield conf/, sweeps/, and what conf/train.yaml puts on Hydra's search path."""
    home = files.home()
    yield from (files.conf_dir(), home / "sweeps")
    register_resolvers()
    listed = OmegaConf.select(OmegaConf.load(files.conf_dir() / "train.yaml"), "hydra.searchpath")
    for entry in map(str, listed or ()):
        folder = Path(entry.removeprefix("file://"))
        if entry.startswith("file://") and folder.resolve() != home.resolve():
            yield folder


def _leaves(stored: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each ``_target_``, and each text, with its place: ``model.blocks[0]._target_``."""
    waiting: list[tuple[str, Any]] = [("", stored)]
    while waiting:  # not by recursion: a file may be nested as deep as it likes
        place, value = waiting.pop()
        if _names_code(place) or isinstance(value, str):
            yield place, value
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield f"the key {_short(key)}", str(key)
                waiting.append((f"{place}.{key}" if place else str(key), item))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            waiting += [(f"{place}[{index}]", item) for index, item in enumerate(value)]


def _names_code(place: str) -> bool:
    return place.rpartition(".")[2] == "_target_"


def _check_object(
    target: str, place: str, homes: Collection[str], trusted: Collection[str]
) -> None:
    """Check what a name of an allowed package leads to; attributes lead out of a package, too."""
    try:
        located = _found(target)
    except Exception as error:  # whatever the import raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{place}: cannot import {_short(target)} ({reason})") from error
    defined = str(getattr(located, "__module__", None))
    if _within(defined, trusted) or (_within(defined, homes) and _is_component(located)):
        return
    raise UserError(
        f"{place} names {_short(target)}, which is no network, optimizer or schedule of its"
        f" package; it was not called; {_remedy(target)}"
    )


def _found(target: str) -> Any:
    """Return what Hydra will find by this name: attributes come before modules."""
    first, *parts = target.split(".")
    located, name = import_module(first), first
    for part in parts:
        name = f"{name}.{part}"
        try:
            located = getattr(located, part)
        except AttributeError:
            located = import_module(name)
    return located


def _is_component(located: Any) -> bool:
    """Return whether ``located`` is a network, optimizer or schedule, or says it returns one."""
    if not inspect.isclass(located):
        try:
            located = typing.get_type_hints(located).get("return")
        except (NameError, TypeError):
            return False
    return inspect.isclass(located) and issubclass(located, _KINDS)


def _within(name: str, packages: Collection[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _remedy(target: str) -> str:
    package = target.partition(".")[0]
    if package in _NEVER_WHOLE or not _DOTTED.fullmatch(target):
        return "if it is a component of yours, name it in a YAML file there"
    return f"if you trust that package, add --trust={package}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
