"""A missing package is told by the extra that brings it."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

from bench.extras import needed

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


def test_the_extras_of_this_project_are_found() -> None:
    # Against the installed metadata, whatever form it has them in.
    assert needed(ModuleNotFoundError("", name="hypothesis")) == (
        "needs the `dev` extra: pip install 'spectral-bench[dev]'"
    )
