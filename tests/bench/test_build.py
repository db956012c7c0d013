"""From a component's config to the component, and what is said where that is refused."""

from __future__ import annotations

import pytest

from bench.build import attempt
from bench.errors import UserError


def test_a_reading_error_says_where() -> None:
    def build() -> None:
        raise ValueError("no good\nmore")

    with pytest.raises(UserError, match=r"^here: no good$"):
        attempt("here", build)
    assert attempt("here", lambda: 3) == 3
