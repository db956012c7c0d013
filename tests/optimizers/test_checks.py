from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from optimizers import checks


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (checks.not_negative, [0, 0.0, 3.5], [-1e-9, math.inf, math.nan, "1", None, True]),
        (checks.positive, [1e-12, 2], [0, -1, math.nan, math.inf, "x", False]),
        (checks.fraction, [0, 0.95], [1, 1.0, -0.1, math.nan, None]),
        (checks.whole, [1, 5], [0, -1, 2.0, "2", True]),
    ],
)
def test_range_checks_accept_and_refuse(
    check: Callable[[str, Any], Any], good: list[Any], bad: list[Any]
) -> None:
    assert [check("name", value) for value in good] == good
    for value in bad:
        with pytest.raises(ValueError, match=r"^some_name must be") as error:
            check("some_name", value)
        assert repr(value) in str(error.value)


def test_numbers_give_a_plain_tuple_of_floats() -> None:
    values = checks.numbers("betas", [0, 0.5], 2)
    assert values == (0.0, 0.5)
    assert all(type(value) is float for value in values)


@pytest.mark.parametrize("bad", [[1.0], [1.0, 2.0, 3.0], 0.9, "ab", [0.1, "b"], [0.1, math.nan]])
def test_numbers_refuse_wrong_counts_and_non_numbers(bad: Any) -> None:
    with pytest.raises(ValueError, match="betas"):
        checks.numbers("betas", bad, 2)


def test_choice_lists_what_is_valid() -> None:
    assert checks.choice("mode", "b", ("a", "b")) == "b"
    with pytest.raises(ValueError, match="mode must be one of a, b; got 'c'"):
        checks.choice("mode", "c", ("a", "b"))
