"""torchvision imports in a fresh process, whichever build of torch is beside it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import compat

CODE = """
import torch
from bench.compat import ensure_torchvision
found = ensure_torchvision()
assert ensure_torchvision() == found
import torchvision
import torchvision.transforms.v2
from torchvision.models import resnet18
assert resnet18(num_classes=3).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0])
try:
    kept = torchvision.ops.nms(boxes, scores, 0.5).tolist()
except (NotImplementedError, RuntimeError) as error:
    kept = type(error).__name__
print(found, kept, sep="|")
"""


@pytest.mark.slow
def test_torchvision_works_in_a_fresh_process() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, kept = done.stdout.strip().splitlines()[-1].split("|")
    assert found in ("compiled", "schemas only")
    # Compiled operators work; declared ones must say that they do not, and never return nonsense.
    assert (
        (kept == "[0]")
        if found == "compiled"
        else (kept in ("NotImplementedError", "RuntimeError"))
    )


def test_absent_torchvision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install torchvision"):
        compat.ensure_torchvision.__wrapped__()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that poses as the installed torchvision."""
    spec = importlib.machinery.ModuleSpec("torchvision", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return tmp_path


def test_a_library_that_loads_is_left_alone(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    (package / "_C.so").write_bytes(b"")
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    monkeypatch.setattr(torch.library, "Library", None)  # declaring anything would raise
    assert compat.ensure_torchvision.__wrapped__() == "compiled"
    assert loaded == [str(package / "_C.so")]


def test_a_library_that_does_not_load_falls_back_to_schemas(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nonsense in place of the compiled library: the loader's own OSError is what is caught."""
    (package / "_C.so").write_bytes(b"no library")
    namespace = "torchvision_for_this_test"
    library = torch.library.Library
    monkeypatch.setattr(torch.library, "Library", lambda name, kind: library(namespace, kind))
    monkeypatch.setattr(compat, "_libraries", [])
    assert compat.ensure_torchvision.__wrapped__() == "schemas only"
    assert len(compat._libraries) == 1
    assert str(getattr(torch.ops, namespace).nms.default._schema) == (
        f"{namespace}::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    )
    assert hasattr(getattr(torch.ops, namespace), "qnms")
