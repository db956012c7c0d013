"""What a ``_target_`` names, wherever its code lies by now: the public names of components.

`MOVED` has an entry for every moved class or function that a config may name, for as long as runs,
archives or users' files may know the old name. The first name that a component ever had identifies
its runs. Moved again, it keeps its first entry, with the new place; the place between gets an entry
below it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

# The name as configs know it -> where it is.
MOVED: dict[str, str] = {
    "bench.models.imagenet.resnet50_imagenet": "bench.models.resnet.resnet50_imagenet",
}

_KEY = "_target_"


def current(target: str) -> str:
    """Return where the code of ``target`` lies today."""
    return MOVED.get(target, target)


def canonical(target: str) -> str:
    """Return the first public name that what ``target`` names ever had, by which runs know it."""
    place = current(target)
    return next((first for first, moved in MOVED.items() if moved == place), target)


def locate(target: str) -> Any:
    """Return what ``target`` names; old and new names are as good as each other.

    Raises:
        Exception: whatever importing its module raises; ImportError, AttributeError or ValueError
            where there is no such thing.
    """
    return pkgutil.resolve_name(current(target))


def with_canonical(config: Any) -> Any:
    """Return a copy of a config in which every ``_target_``, at any depth, is `canonical`."""
    return _renamed(config, canonical)


def with_current(config: Any) -> Any:
    """Return a copy of a config in which every ``_target_``, at any depth, is `current`."""
    return _renamed(config, current)


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        renamed = {key: _renamed(inner, rename) for key, inner in value.items()}
        if isinstance(value.get(_KEY), str):
            renamed[_KEY] = rename(value[_KEY])
        return renamed
    return [_renamed(inner, rename) for inner in value] if isinstance(value, list) else value


def targets_of(component: Any) -> Iterator[str]:
    """Yield every ``_target_`` of a config, the outermost first."""
    if isinstance(component, dict):
        if isinstance(component.get(_KEY), str):
            yield component[_KEY]
        for value in component.values():
            yield from targets_of(value)
    elif isinstance(component, list):
        for value in component:
            yield from targets_of(value)
