"""The folders of bench/: what is in each is said where one looks first."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bench

ROOMS = sorted(path.parent for path in Path(str(bench.__file__)).parent.glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_in_one_line_what_is_in_it(room: Path) -> None:
    tree = ast.parse((room / "__init__.py").read_text())
    assert len(tree.body) == 1, "only the docstring: to import one file must load no other"
    assert len((ast.get_docstring(tree) or "\n\n").splitlines()) == 1
