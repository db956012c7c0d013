"""Where a run computes, and what is set for the whole process."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from bench import config, setup, train
from bench.config import TrainerConfig
from bench.setup import choose_device, choose_memory_format, choose_precision, prepare

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


def test_the_compilers_advice_on_tf32_is_not_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # undone afterwards
    advice = "TensorFloat32 tensor cores for float32 matrix multiplication available"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        prepare(trainer(), CPU, tmp_path)
        warnings.warn(advice, stacklevel=1)
        prepare(trainer(), torch.device("cuda"), tmp_path)
        warnings.warn(advice, stacklevel=1)
        warnings.warn("another", stacklevel=1)
    assert [str(one.message) for one in told] == [advice, "another"]


def test_compiled_code_is_kept_with_the_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What torch's compiler writes there on its import is no choice of the user's.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/torchinductor_somebody")
    monkeypatch.setattr(setup, "_CHOSEN_CACHE", None)
    monkeypatch.chdir(tmp_path)
    prepare(trainer(), CPU, Path("data"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/tmp/torchinductor_somebody"
    prepare(trainer("compile=true"), CPU, Path("data"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "data" / "compile_cache")
    monkeypatch.setattr(setup, "_CHOSEN_CACHE", "/chosen")
    prepare(trainer("compile=true"), CPU, Path("data"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/chosen"


def test_runs_that_differ_in_seed_and_learning_rate_share_compiled_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forgotten: list[int] = []
    monkeypatch.setattr("torch.compiler.reset", lambda: forgotten.append(1))
    monkeypatch.setattr(setup, "_kept", (None, 0))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # undone afterwards

    def after(*words: str) -> int:
        run = config.load(["model=mlp", "trainer.compile=true", *words])
        prepare(run.trainer, CPU, tmp_path, setup.compile_key(run))
        return len(forgotten)

    assert after("optimizer=muon") == 1
    assert after("optimizer=muon", "optimizer.lr=0.3", "seed=5", "schedule=constant") == 1
    assert after("optimizer=muon", "optimizer.momentum=0.5") == 2
    assert after("optimizer=sgd") == 3
    assert after("optimizer=sgd", "model.hidden=[9]") == 4
    assert after("optimizer=sgd", "model.hidden=[9]", "trainer.precision=bf16") == 5
    # Torch refuses to compile one function again and again: at times all is forgotten.
    assert [after("optimizer=adam", f"seed={seed}") for seed in range(8)] == [6] * 6 + [7] * 2
    prepare(config.load(["trainer.compile=true"]).trainer, CPU, tmp_path)
    assert len(forgotten) == 8


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "spectral_newton"])
def test_what_one_run_compiled_serves_the_next(optimizer: str, tmp_path: Path) -> None:
    words = ["model=mlp", "model.hidden=[16]", f"optimizer={optimizer}", "trainer.compile=true"]
    words += ["trainer.epochs=1", "trainer.batch_size=400", "trainer.progress=none"]
    words += ["tracker=none", "trainer.accounting=false", "trainer.device=cpu", "seed=4"]

    def made(name: str, *more: str) -> dict[str, Any]:
        places = [f"runs_dir={tmp_path / name}", f"data_dir={tmp_path}"]
        summary = train.train(config.load([*words, *places, *more]))
        return {key: value for key, value in summary.items() if "/loss" in key}

    made("warm", "optimizer.lr=0.3", "seed=3")
    graphs = counters["stats"]["unique_graphs"]
    assert graphs >= 1
    after_another = made("after", "optimizer.lr=0.03")
    assert counters["stats"]["unique_graphs"] == graphs
    torch.compiler.reset()
    assert made("alone", "optimizer.lr=0.03") == after_another
