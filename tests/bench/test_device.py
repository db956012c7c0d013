"""Where a run computes, and what is set for the whole process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bench import config, device
from bench.config import TrainerConfig
from bench.device import choose_device, choose_memory_format, choose_precision, prepare

CPU = torch.device("cpu")


def trainer(*overrides: str) -> TrainerConfig:
    return config.load([f"trainer.{override}" for override in overrides]).trainer


@pytest.mark.parametrize(
    ("wanted", "kind", "found"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "cuda", "bf16"),
        ("bf16", "cpu", "bf16"),
        ("float32", "cuda", "float32"),
    ],
)
def test_precision(wanted: str, kind: str, found: str) -> None:
    assert choose_precision(wanted, torch.device(kind)) == found


@pytest.mark.parametrize(
    ("wanted", "kind", "last"),
    [
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        (True, "cpu", True),
        (False, "cuda", False),
    ],
)
def test_memory_format(wanted: bool | str, kind: str, last: bool) -> None:
    expected = torch.channels_last if last else torch.contiguous_format
    assert choose_memory_format(wanted, torch.device(kind)) is expected


def test_device() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_threads(tmp_path: Path) -> None:
    prepare(trainer("threads=2"), CPU, tmp_path)
    assert torch.get_num_threads() == 2
    prepare(trainer("threads=1"), CPU, tmp_path)
    assert torch.get_num_threads() == 1


def test_compiled_code_is_kept_with_the_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What torch's compiler writes there on its import is no choice of the user's.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/torchinductor_somebody")
    monkeypatch.setattr(device, "_CHOSEN_CACHE", None)
    monkeypatch.chdir(tmp_path)
    prepare(trainer(), CPU, Path("data"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/tmp/torchinductor_somebody"
    prepare(trainer("compile=true"), CPU, Path("data"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "data" / "compile_cache")
    monkeypatch.setattr(device, "_CHOSEN_CACHE", "/chosen")
    prepare(trainer("compile=true"), CPU, Path("data"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/chosen"
