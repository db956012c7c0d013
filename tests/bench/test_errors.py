"""Suggestions of the nearest valid choice.

A missing package is told by the extra that brings it.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import components, config
from bench.errors import RunsFailedError, UserError, import_failure, needed, suggestion

WORDS = st.text("abcdefgh_", min_size=1, max_size=8)


def test_the_nearest_choice_is_named_first() -> None:
    text = suggestion("adamv", ["sgd", "adamw", "muon"])
    assert text == "did you mean adamw? choices: adamw, muon, sgd"


def test_nothing_near_gives_the_choices_alone() -> None:
    assert suggestion("zzzz", ["sgd", "adamw"]) == "choices: adamw, sgd"


def test_no_choices_at_all() -> None:
    assert suggestion("anything", []) == "choices: none"


def test_choices_may_be_any_iterable_and_repeat() -> None:
    assert suggestion("zzzz", iter(["b", "a", "b"])) == "choices: a, b"


@settings(max_examples=50, deadline=None)
@given(WORDS, st.lists(WORDS, max_size=5))
def test_one_line_with_every_choice(word: str, choices: list[str]) -> None:
    text = suggestion(word, choices)
    assert "\n" not in text
    assert set(text.partition("choices: ")[2].split(", ")) == (set(choices) or {"none"})
    if word in choices:
        assert text.startswith(f"did you mean {word}?")


def test_the_two_errors_are_apart() -> None:
    # The command line gives them different exit statuses.
    assert not issubclass(UserError, RunsFailedError)
    assert not issubclass(RunsFailedError, UserError)
    assert not issubclass(UserError, ValueError)


REQUIREMENTS = [
    "torch>=2.11",
    'opt-einsum>=3.4; extra == "baselines"',
    'Pytorch-Optimizer>=4.1; extra == "baselines"',
    "mypy>=1.14; python_version > '3.8' and extra == 'dev'",
    'spectral-bench[baselines]; extra == "dev"',
]


@pytest.fixture
def requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIREMENTS)


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("pytorch_optimizer", "baselines"),
        ("pytorch_optimizer.optimizer.soap", "baselines"),
        ("opt_einsum", "baselines"),
        ("mypy", "dev"),
        ("torch", None),
        ("no_such_package", None),
        (None, None),
    ],
)
def test_the_extra_of_a_module(requirements: None, module: str | None, extra: str | None) -> None:
    line = needed(ModuleNotFoundError("No module", name=module))
    expected = f"needs the `{extra}` extra: pip install 'spectral-bench[{extra}]'"
    assert line == (expected if extra else None)


def test_other_errors_and_an_uninstalled_project_have_none(monkeypatch: Any) -> None:
    assert needed(AttributeError("pytorch_optimizer")) is None

    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert needed(ModuleNotFoundError("No module", name="pytorch_optimizer")) is None


def test_why_an_import_failed_is_found_behind_a_missing_attribute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "extras_outer").mkdir()
    (tmp_path / "extras_outer" / "__init__.py").touch()
    (tmp_path / "extras_outer" / "lacking.py").write_text("import no_such_package.deep")
    (tmp_path / "extras_outer" / "broken.py").write_text("1 / 0")
    (tmp_path / "extras_outer" / "sound.py").touch()
    said = AttributeError("has no such attribute")
    found = import_failure("extras_outer.lacking.Mine", said)
    assert isinstance(found, ModuleNotFoundError)
    assert found.name == "no_such_package"
    assert isinstance(import_failure("extras_outer.broken.Mine", said), ZeroDivisionError)
    for target in ("extras_outer.sound.Mine", "extras_outer.nowhere.Mine", "Mine"):
        assert import_failure(target, said) is said
    other = ImportError("something else")
    assert import_failure("extras_outer.lacking.Mine", other) is other


def test_the_extras_of_this_project_are_found() -> None:
    # Against the installed metadata, whatever form it has them in.
    assert needed(ModuleNotFoundError("", name="hypothesis")) == (
        "needs the `dev` extra: pip install 'spectral-bench[dev]'"
    )


def test_a_package_that_is_not_installed_is_told_by_the_choice_that_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = config.load(["tracker=none"])
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)  # import fails
    requirement = 'pytorch-optimizer>=4.1; extra == "baselines"'
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: [requirement])
    how = "needs the `baselines` extra: pip install 'spectral-bench[baselines]'"
    with pytest.raises(UserError) as caught:
        config.load(["tracker=none", "optimizer=soap"])
    assert str(caught.value) == f"optimizer=soap {how}"
    monkeypatch.delitem(sys.modules, "bench.competitors.scalable_shampoo", raising=False)
    monkeypatch.delattr("bench.competitors.scalable_shampoo", raising=False)
    with pytest.raises(UserError) as caught:  # a module of ours around one of the package's
        config.load(["tracker=none", "optimizer=shampoo"])
    assert str(caught.value) == f"optimizer=shampoo {how}"
    deep = {**base.optimizer, "inner": {"_target_": "pytorch_optimizer.Lion"}}
    parts = {"optimizer": deep}
    with pytest.raises(UserError) as caught:
        components.check(parts, {"optimizer": "mine"})
    assert str(caught.value) == f"optimizer=mine {how}"
    with pytest.raises(UserError) as caught:  # a component that is no file of conf/
        components.check(parts)
    assert str(caught.value) == f"pytorch_optimizer.Lion {how}"
