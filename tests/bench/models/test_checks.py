"""The option checks."""

from __future__ import annotations

import pytest

from bench.models.checks import check_choice, check_divides, check_positive, check_probability


def test_what_may_be_passes() -> None:
    check_positive("net", width=1, depth=10**9)
    check_divides("net", heads=3, dim=192)
    check_choice("net", "norm", "post", ("pre", "post"))
    check_probability("net", dropout=0, other=0.999)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None])
def test_anything_else_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"^depth of net must be an integer of 1 or more, not "):
        check_positive("net", width=1, depth=value)  # type: ignore[arg-type]


def test_a_remainder_is_named() -> None:
    with pytest.raises(ValueError, match=r"^heads of net must divide dim: 5 does not divide 192$"):
        check_divides("net", heads=5, dim=192)


def test_an_unknown_choice_is_named() -> None:
    with pytest.raises(ValueError, match=r"^norm of net must be pre or post, not none$"):
        check_choice("net", "norm", "none", ("pre", "post"))


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, float("nan"), True, "0.1", None])
def test_what_is_no_probability_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"^dropout of net must be from 0 to below 1, not "):
        check_probability("net", dropout=value)  # type: ignore[arg-type]
