"""Values inside nested mappings, by path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def replaced(values: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a copy of ``values`` with the value at ``path`` replaced; what is beside it is shared.

    Raises:
        KeyError: there is no value at ``path``.
    """
    key, *rest = path
    if key not in values or (rest and not isinstance(values[key], Mapping)):
        raise KeyError(key)
    return {**values, key: replaced(values[key], rest, value) if rest else value}
