"""A copy with one value changed, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.tuning.settings import replaced

KEYS = st.sampled_from("abc")
VALUES = st.recursive(st.integers(), lambda inner: st.dictionaries(KEYS, inner), max_leaves=8)


def paths(values: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every path of a nested mapping, with its value."""
    found = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        found[*above, key] = value
        found |= paths(value, (*above, key))
    return found


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(KEYS, VALUES), st.lists(KEYS, min_size=1, max_size=4))
def test_one_value_is_replaced_in_a_copy(values: dict[str, Any], path: list[str]) -> None:
    before, there, new = copy.deepcopy(values), paths(values), object()
    if tuple(path) not in there:
        with pytest.raises(KeyError):
            replaced(values, path, new)
        return
    after = paths(replaced(values, path, new))
    assert values == before
    assert after.pop(tuple(path)) is new
    for other, value in there.items():
        if other[: len(path)] != tuple(path) and other != tuple(path[: len(other)]):
            assert after[other] is value
