"""What a config leaves to the machine, and what is set for the whole process."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from bench import config, setup, train
from bench.errors import UserError
from bench.setup import Setup, choose_device
from bench.training.parallel import Team

CPU = torch.device("cpu")


def settled(*overrides: str) -> Setup:
    """The setup of a run with these options of the trainer's."""
    return Setup.of(config.load([f"trainer.{override}" for override in overrides]))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, as far as a config goes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("wanted", "cpu", "cuda"),
    [("auto", "float32", "bf16"), ("bf16", "bf16", "bf16"), ("float32", "float32", "float32")],
)
def test_precision(gpus: None, wanted: str, cpu: str, cuda: str) -> None:
    assert settled(f"precision={wanted}", "device=cpu").precision == cpu
    assert settled(f"precision={wanted}", "device=cuda").precision == cuda


@pytest.mark.parametrize(
    ("wanted", "kind", "last"),
    [
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        ("true", "cpu", True),
        ("false", "cuda", False),
    ],
)
def test_memory_format(gpus: None, wanted: str, kind: str, last: bool) -> None:
    expected = torch.channels_last if last else torch.contiguous_format
    assert settled(f"channels_last={wanted}", f"device={kind}").memory_format is expected


@pytest.mark.parametrize(
    ("wanted", "kind", "devices", "graph"),
    [
        ("auto", "cpu", 1, False),
        ("auto", "cuda", 1, True),
        ("auto", "cuda", 2, False),
        ("true", "cuda", 1, True),
        ("false", "cuda", 1, False),
    ],
)
def test_a_graph_is_of_one_gpu(
    gpus: None, wanted: str, kind: str, devices: int, graph: bool
) -> None:
    given = (f"cuda_graph={wanted}", f"device={kind}", f"devices={devices}")
    assert settled(*given).cuda_graph is graph


def test_device() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cuda") == torch.device("cuda:0")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_devices_of_ranks(gpus: None) -> None:
    assert settled("device=cpu").joined(Team(1, 2)).device == CPU
    assert settled("device=cuda").joined(Team(1, 2)).device == torch.device("cuda:1")
    assert settled("device=cuda:1").joined(Team()).device == torch.device("cuda:1")


def test_only_the_leader_prints(capsys: pytest.CaptureFixture[str]) -> None:
    leader = settled()
    for rank in (0, 1):
        leader.joined(Team(rank, 2)).note("goes on")
    assert capsys.readouterr().out == f"{leader.identity.id}: goes on\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "devices=3",
            "trainer.devices=3 does not divide trainer.batch_size=",
        ),
        ("devices=2 device=cuda:0", "trainer.device=cuda:0 is one device"),
        ("devices=4 device=cuda", "trainer.devices=4: there are 2 CUDA devices here"),
        ("cuda_graph=true device=cpu", "trainer.cuda_graph=true needs a CUDA device; use auto, or"),
        ("cuda_graph=true device=cuda devices=2", "does not go with trainer.devices=2; use auto"),
    ],
)
def test_what_this_machine_cannot_do(gpus: None, given: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        settled(*given.split()).check()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "given", ["device=cpu", "device=cpu devices=4", "device=cuda devices=2", "cuda_graph=true"]
)
def test_what_it_can_do(gpus: None, given: str) -> None:
    settled(*given.split()).check()


def test_threads() -> None:
    settled("threads=2").prepare()
    assert torch.get_num_threads() == 2
    settled("threads=1").prepare()
    assert torch.get_num_threads() == 1


def test_the_compilers_advice_on_tf32_is_not_passed_on(
    gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # undone afterwards
    advice = "TensorFloat32 tensor cores for float32 matrix multiplication available"
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        settled("device=cpu").prepare()
        warnings.warn(advice, stacklevel=1)
        settled("device=cuda").prepare()
        warnings.warn(advice, stacklevel=1)
        warnings.warn("another", stacklevel=1)
    assert [str(one.message) for one in shown] == [advice, "another"]


def test_compiled_code_is_kept_with_the_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What torch's compiler writes there on its import is no choice of the user's.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/torchinductor_somebody")
    monkeypatch.setattr(setup, "_CHOSEN_CACHE", None)
    monkeypatch.chdir(tmp_path)
    settled().prepare()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/tmp/torchinductor_somebody"
    settled("compile=true").prepare()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "data" / "compile_cache")
    monkeypatch.setattr(setup, "_CHOSEN_CACHE", "/chosen")
    settled("compile=true").prepare()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/chosen"


def test_runs_that_differ_in_seed_and_learning_rate_share_compiled_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forgotten: list[int] = []
    monkeypatch.setattr("torch.compiler.reset", lambda: forgotten.append(1))
    monkeypatch.setattr(setup, "_kept", (None, 0))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # undone afterwards

    def after(*words: str) -> int:
        Setup.of(config.load(["model=mlp", "trainer.compile=true", *words])).prepare()
        return len(forgotten)

    assert after("optimizer=muon") == 1
    assert after("optimizer=muon", "optimizer.lr=0.3", "seed=5", "schedule=constant") == 1
    assert after("optimizer=muon", "optimizer.momentum=0.5") == 2
    assert after("optimizer=sgd") == 3
    assert after("optimizer=sgd", "model.hidden=[9]") == 4
    assert after("optimizer=sgd", "model.hidden=[9]", "trainer.precision=bf16") == 5
    # Torch refuses to compile one function again and again: at times all is forgotten.
    assert [after("optimizer=adam", f"seed={seed}") for seed in range(8)] == [6] * 6 + [7] * 2


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
