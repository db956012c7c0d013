"""The option checks."""

from __future__ import annotations

import pytest

from bench.models.checks import check_positive


def test_positive_integers_pass() -> None:
    check_positive("net", width=1, depth=10**9)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None])
def test_anything_else_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"^depth of net must be an integer of 1 or more, not "):
        check_positive("net", width=1, depth=value)  # type: ignore[arg-type]
