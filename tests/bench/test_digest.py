"""The digest of a component's code: what changes it, and what does not."""

from __future__ import annotations

import hashlib
import inspect
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.digest import Sources, component_digests, source_digest

# A package of two layers: a rule with a base, a helper, a constant and a decorator.
CODE = {
    "__init__": "from ours.rule import Rule\n",
    "rule": """
        from ours import maths
        from ours.base import Base, logged
        from ours.maths import half

        class Rule(Base):
            def __init__(self, params, lr=0.1, power=maths.POWER):
                super().__init__(params, lr)
                self.power = power

            @logged
            def step(self, x):
                from ours.late import finish

                y = maths.scale(x) ** self.power
                return finish([half(one) for one in y])
        """,
    "base": """
        import functools

        class Base:
            def __init__(self, params, lr):
                self.params, self.lr = params, lr

        def logged(function):
            @functools.wraps(function)
            def inner(*args):
                return function(*args)
            return inner
        """,
    "maths": """
        import torch
        from functools import lru_cache, partial

        POWER = -0.5
        LIMITS = {}
        LIMITS["low"] = 1e-8

        def _safe(x):
            if x is None:
                raise ValueError("x is missing")
            return torch.clamp(x, min=LIMITS["low"])

        @lru_cache
        def scale(x):
            return _safe(x) * 2

        def _divided(x, by):
            return x / by

        half = partial(_divided, by=2)
        unused = 3
        """,
    "late": """
        def _safe(x):
            return x + 1

        def finish(x):
            return _safe(x)
        """,
}

Write = Callable[[dict[str, str]], str]


@pytest.fixture
def written(tmp_path: Path) -> Write:
    """Returns the digest of ``ours.Rule`` in a package of these modules."""

    def write(code: dict[str, str]) -> str:
        folder = tmp_path / "ours"
        shutil.rmtree(folder, ignore_errors=True)
        for name, text in code.items():
            file = folder.joinpath(*name.split("/")).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        digest = Sources({"ours": folder}).digest("ours.Rule")
        assert digest is not None and len(digest) == 16
        return digest

    return write


def edited(module: str, old: str, new: str) -> dict[str, str]:
    """The package with a change in one module."""
    assert old in CODE[module]
    return CODE | {module: CODE[module].replace(old, new)}


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("maths", "* 2", "* 3"),  # a formula two calls away
        ("maths", "POWER = -0.5", "POWER = -0.25"),
        ("maths", 'LIMITS["low"] = 1e-8', 'LIMITS["low"] = 1e-6'),
        ("maths", "by=2", "by=4"),
        ("maths", "x / by", "x // by"),
        ("maths", "@lru_cache", ""),
        ("maths", "if x is None", "if x is not None"),
        ("maths", "ValueError", "TypeError"),
        ("maths", "torch.clamp", "torch.clip"),
        ("base", "params, lr", "lr, params"),
        ("base", "return function(*args)", "return function(*args[1:])"),
        ("late", "x + 1", "x + 2"),  # imported when it is called
        ("late", "return _safe(x)", "return x"),
        ("rule", "lr=0.1", "lr=0.2"),
        ("rule", "for one in y", "for one in x"),
        ("rule", "Rule(Base)", "Rule"),
        ("rule", "@logged", ""),
        ("rule", "self.power = power", "self.strength = power"),
    ],
)
def test_what_changes_it(written: Write, module: str, old: str, new: str) -> None:
    assert written(edited(module, old, new)) != written(CODE)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("rule", "y = maths", "# why\n                y = maths"),
        ("rule", "class Rule(Base):", 'class Rule(Base):\n            """A rule."""\n'),
        ("base", "def logged(function):", 'def logged(function):\n            """Logs."""'),
        ("maths", "def scale(x):", "def scale(x: torch.Tensor) -> torch.Tensor:"),
        ("maths", "POWER = -0.5", "POWER: float = (\n            -0.5\n        )"),
        ("maths", '"x is missing"', 'f"give {x}"'),
        ("maths", "unused = 3", "unused = 4"),
        ("maths", "import torch", "from torch import clamp"),  # and see below
        ("maths", "import torch", "import torch\n        import math"),
        ("rule", "from ours import maths", "import ours.maths as maths"),
        ("rule", "from ours.base", "from .base"),
        ("rule", "half(one) for one in y", "half(one)  # each\n" + " " * 20 + "for one in y"),
        ("late", "x)", "x,)"),
    ],
)
def test_what_does_not(written: Write, module: str, old: str, new: str) -> None:
    code = edited(module, old, new)
    if new == "from torch import clamp":
        code["maths"] = code["maths"].replace("torch.clamp", "clamp")
    assert written(code) == written(CODE)


def test_what_is_only_for_type_checkers(written: Write) -> None:
    code = dict(CODE)
    code["late"] = """
        from typing import TYPE_CHECKING, overload

        if TYPE_CHECKING:
            from ours.types import Thing

        def _safe(x: Thing) -> Thing:
            local: Thing
            return x + 1

        def finish(x: "Thing"):
            return _safe(x)
        """
    assert written(code) == written(CODE)


def test_a_moved_file(written: Write) -> None:
    moved = CODE | {"deep/sums": CODE["maths"], "deep/__init__": ""}
    del moved["maths"]
    moved["rule"] = CODE["rule"].replace("from ours import maths", "import ours.deep.sums")
    moved["rule"] = moved["rule"].replace("ours.maths", "ours.deep.sums")
    moved["rule"] = moved["rule"].replace("maths.", "ours.deep.sums.")
    assert written(moved) == written(CODE)


def test_the_target_in_another_file(tmp_path: Path, written: Write) -> None:
    moved = CODE | {"__init__": "from .newton import Law as Rule\n"}
    moved["newton"] = moved.pop("rule").replace("class Rule", "class Law")
    assert written(moved) == written(CODE)
    assert Sources({"ours": tmp_path / "ours"}).digest("ours.base.Base") is not None


def test_two_modules_made_one(written: Write) -> None:
    """Both have a helper ``_safe``, and one must get another name."""
    late = textwrap.dedent(CODE["late"]).replace("_safe", "_plus_one")
    merged = CODE | {"maths": textwrap.dedent(CODE["maths"]) + late}
    merged["rule"] = CODE["rule"].replace("from ours.late import", "from ours.maths import")
    del merged["late"]
    assert written(merged) == written(CODE)


def test_helpers_of_one_name_are_told_apart(written: Write) -> None:
    """Both modules' ``_safe`` are reached before and after; now each is the other's."""
    swapped = dict(CODE)
    swapped["maths"] = CODE["maths"].replace("def _safe", "def _own").replace("import torch", (
        "import torch\n        from ours.late import _safe"
    ))  # fmt: skip
    swapped["late"] = CODE["late"].replace(
        "return _safe(x)", "from ours.maths import _own\n            return _own(x)"
    )
    assert written(swapped) != written(CODE)


def test_a_local_name_is_no_helper_of_the_same_name(written: Write) -> None:
    before = CODE | {"late": "def finish(x):\n    size = len(x)\n    return size\n"}
    beside = before | {"late": before["late"] + "\ndef size(x):\n    return 7\n"}
    assert written(before) == written(beside)
    used = before | {"late": "def finish(x):\n    return size(x)\ndef size(x):\n    return 7\n"}
    other = used | {"late": used["late"].replace("7", "8")}
    assert written(used) != written(other)


def test_circles_end(written: Write) -> None:
    even = "def finish(x):\n    from ours.odd import odd\n    return not x or odd(x - 1)\n"
    odd = "from ours.late import finish\ndef odd(x):\n    return x and finish(x - 1)\n"
    code = CODE | {"late": even, "odd": odd}
    assert written(code) == written(code)
    assert written(code) != written(code | {"odd": odd.replace("x - 1", "x - 2")})
    lost = CODE | {"late": "from ours.odd import finish\n", "odd": "from ours.late import finish\n"}
    assert written(lost) != written(code)


def test_a_module_used_as_a_whole_counts_whole(written: Write) -> None:
    by_name = edited("rule", "maths.scale(x)", "getattr(maths, self.how)(x)")
    other = by_name | {"maths": CODE["maths"].replace("unused = 3", "unused = 4")}
    assert written(by_name) != written(other)


def test_what_is_not_in_the_sources_has_none(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    sources = Sources({"ours": tmp_path / "ours"})
    assert [sources.digest(name) for name in ("ours.Rule", "torch.optim.SGD", "ours")] == [None] * 3


# -- of this project and of others --------------------------------------------------------------


def test_an_optimizer_of_ours_does_not_depend_on_the_others() -> None:
    root = Path(__file__).resolve().parents[2] / "optimizers"
    digest = source_digest("optimizers.Muon")
    assert digest == source_digest("optimizers.muon.Muon")
    assert digest != source_digest("optimizers.SpectralNewton")
    assert digest == Sources({"optimizers": root}).digest("optimizers.Muon")


@pytest.mark.parametrize(
    ("name", "old", "new", "counts"),
    [
        ("muon", "momentum: float = 0.95", "momentum: float = 0.9", True),
        ("math/polar", "3.4445", "3.4446", True),
        ("base", "loss = closure()", "loss = 2 * closure()", True),
        ("matrix_optimizer", "beta1=beta1", "beta1=beta2", True),
        ("kfac", "return [] if bias is None", "return [] if bias is not None", False),
    ],
)
def test_only_what_it_uses_counts(
    tmp_path: Path, name: str, old: str, new: str, counts: bool
) -> None:
    copy = tmp_path / "optimizers"
    shutil.copytree(Path(__file__).resolve().parents[2] / "optimizers", copy)
    file = copy / f"{name}.py"
    text = file.read_text()
    before = Sources({"optimizers": copy}).digest("optimizers.Muon")
    file.write_text(f"# a comment\n{text}")
    assert Sources({"optimizers": copy}).digest("optimizers.Muon") == before
    assert old in text
    file.write_text(text.replace(old, new))
    assert (Sources({"optimizers": copy}).digest("optimizers.Muon") != before) == counts


def test_a_foreign_optimizers_source_is_its_own_file() -> None:
    digests = {source_digest(f"torch.optim.{name}") for name in ("AdamW", "SGD", "Adam")}
    assert len(digests) == 3
    file = Path(inspect.getsourcefile(torch.optim.SGD) or "")
    expected = hashlib.sha256(file.name.encode() + b"\0" + file.read_bytes()).hexdigest()[:16]
    assert source_digest("torch.optim.SGD") == expected


def test_what_has_no_source_has_no_digest() -> None:
    assert source_digest("builtins.dict") is None


def test_every_part_of_an_optimizer_has_its_own() -> None:
    component = {
        "_target_": "optimizers.paired.Paired",
        "matrix": {"_target_": "optimizers.Muon"},
        "rest": {"_target_": "torch.optim.AdamW"},  # torch's version tells it
        "params": {"_target_": "optimizers.partition.hidden_matrices"},
    }
    names = ["optimizers.paired.Paired", "optimizers.Muon", "optimizers.partition.hidden_matrices"]
    assert component_digests(component) == {name: source_digest(name) for name in names}
    foreign = {"_target_": "torch.optim.AdamW", "lr": 0.1}
    assert component_digests(foreign) == {"torch.optim.AdamW": source_digest("torch.optim.AdamW")}


def test_nothing_of_ours_is_imported_for_it() -> None:
    code = (
        "import sys; from bench.digest import source_digest;"
        "assert source_digest('optimizers.SpectralNewton');"
        "assert not {'torch', 'optimizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
