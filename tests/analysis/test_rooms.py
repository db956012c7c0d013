"""Who imports whom in analysis/: lazily or not, and for types alone too."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import analysis

ROOT = Path(str(analysis.__file__)).parent
ROOMS = sorted(path.parent for path in ROOT.glob("*/__init__.py"))
CORE = ["callback", "curvature_core", "measure"]


def imported(file: Path) -> set[str]:
    """The dotted names that a file imports; of ``from a import b`` both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{file}: a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files(part: str) -> list[Path]:
    """The files of a room, or the one of this name at the top."""
    return sorted((ROOT / part).glob("*.py")) or [ROOT / f"{part}.py"]


def neighbours(part: str) -> set[str]:
    """The rooms, and files at the top, that a room or a file at the top imports."""
    names = set.union(*(imported(file) for file in files(part)))
    return {name.split(".")[1] for name in names if name.startswith("analysis.")} - {part}


def packages(part: str) -> set[str]:
    return {name.partition(".")[0] for file in files(part) for name in imported(file)}


def test_each_room_says_in_one_line_what_is_in_it() -> None:
    assert ROOMS
    for room in ROOMS:
        tree = ast.parse((room / "__init__.py").read_text())
        assert len(tree.body) == 1, "only the docstring: to import one file must load no other"
        assert len((ast.get_docstring(tree) or "\n\n").splitlines()) == 1, room


def test_there_is_no_circle() -> None:
    parts = [room.name for room in ROOMS]
    parts += [file.stem for file in ROOT.glob("*.py") if file.stem != "__init__"]
    order = list(TopologicalSorter({part: neighbours(part) for part in parts}).static_order())
    assert sorted(order) == sorted(parts)  # every name that is imported is there
    assert order.index("curvature_core") < order.index("measure") < order.index("run")


@pytest.mark.parametrize("part", CORE)
def test_the_measuring_core_knows_neither_bench_nor_hydra(part: str) -> None:
    assert not packages(part) & {"bench", "hydra", "omegaconf", "wandb", "pydantic", "rich"}
    assert neighbours(part) <= {*CORE, "fits", "stats"}


@pytest.mark.parametrize("name", ["fits", "stats"])
def test_mathematics_rests_on_numpy_alone(name: str) -> None:
    known = {"numpy", "scipy", "analysis", *sys.stdlib_module_names}
    assert packages(name) <= known
    assert neighbours(name) <= {"fits"}
