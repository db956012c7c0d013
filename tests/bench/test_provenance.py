"""Code, versions and device of an attempt."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from bench import config, provenance
from bench.digest import component_digests
from bench.parts import build_data
from bench.provenance import collect, device_name, git_state, optimizer_packages
from bench.setup import Setup

NOTHING = {"commit": None, "dirty": None, "diff": None}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout of one commit with the file ``a.py``."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "--quiet")
    (root / "a.py").write_text("a = 1\n")
    git(root, "add", "a.py")
    git(root, "-c", "user.name=n", "-c", "user.email=e@x", "commit", "--quiet", "-m", "one")
    return root


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    expected = {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False, "diff": None}
    assert git_state(checkout) == expected


def test_uncommitted_changes_show_and_differ(checkout: Path) -> None:
    clean = git_state(checkout)
    states = []
    for text in ("a = 2\n", "a = 3\n"):
        (checkout / "a.py").write_text(text)
        states.append(git_state(checkout))
    (checkout / "a.py").write_text("a = 1\n")
    assert git_state(checkout) == clean
    (checkout / "new.py").touch()
    states.append(git_state(checkout))
    assert all(state["dirty"] and state["commit"] == clean["commit"] for state in states)
    assert len({state["diff"] for state in states}) == 3
    assert all(len(state["diff"]) == 16 for state in states)


def test_a_diff_of_any_encoding_is_no_error(checkout: Path) -> None:
    (checkout / "a.py").write_bytes("# Grüße\n".encode("latin-1"))
    assert git_state(checkout)["dirty"] is True


def test_a_folder_outside_of_git_has_no_commit(checkout: Path, tmp_path: Path) -> None:
    assert git_state(tmp_path) == NOTHING
    assert git_state(tmp_path / "absent") == NOTHING


def test_a_folder_in_somebody_elses_checkout_has_no_commit(checkout: Path) -> None:
    # site-packages of a .venv inside a project: its commit says nothing of our code.
    packages = checkout / ".venv" / "site-packages"
    packages.mkdir(parents=True)
    assert git_state(packages) == NOTHING


def test_a_checkout_reached_through_a_link_has_one(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(checkout)
    assert git_state(tmp_path / "link") == git_state(checkout)


def test_a_machine_without_git(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert git_state(checkout) == NOTHING


def test_the_processors_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = device_name(torch.device("cpu"))
    assert name.strip()
    content = "processor : 0\nmodel name\t: Some CPU: fast @ 2 GHz\nmodel name\t: other\n"
    fake = SimpleNamespace(read_text=lambda: content)
    monkeypatch.setattr(provenance, "Path", lambda _: fake)
    assert device_name(torch.device("cpu")) == "Some CPU: fast @ 2 GHz"


def test_a_processor_that_says_nothing_has_its_architecture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(provenance, "Path", lambda _: SimpleNamespace(read_text=lambda: ""))
    assert device_name(torch.device("cpu")) == provenance.platform.machine()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpus_name() -> None:
    assert device_name(torch.device("cuda")) == torch.cuda.get_device_name(0)


def test_everything_of_an_attempt_is_there_and_json() -> None:
    torch.set_num_threads(1)
    setup = Setup.of(config.load(["trainer.device=cpu", "tracker=none"]))
    found = collect(setup, build_data(setup.config))
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert {"python", "numpy", "hydra-core", "wandb"} <= set(found["versions"])
    assert found["threads"] == 1
    assert found["precision"] == "float32"
    assert found["device_type"] == "cpu"
    assert found["optimizer_source"] == component_digests({"_target_": "torch.optim.AdamW"})
    assert found["optimizer_packages"] == {"torch": importlib.metadata.version("torch")}
    assert found["started"].endswith("+00:00")
    assert found["git"] == git_state(Path(__file__).resolve().parents[2])


CLEAN = {"commit": "1a2b3c4d5e6f" + "0" * 28, "dirty": False, "diff": None}


def test_every_package_that_an_optimizer_is_made_of_has_its_version() -> None:
    component = {
        "_target_": "optimizers.paired.Paired",
        "lr": 0.1,
        "matrix": {"_target_": "torch.optim.Muon", "deep": {"_target_": "sklearn.svm.SVC"}},
    }
    ours = importlib.metadata.version("spectral-bench")
    assert optimizer_packages(component, CLEAN) == {
        "spectral-bench": f"{ours}+1a2b3c4d5e6f",
        "torch": importlib.metadata.version("torch"),
        "scikit-learn": importlib.metadata.version("scikit-learn"),  # not the module's name
    }
    own = {"_target_": "optimizers.Muon"}
    dirty = optimizer_packages(own, {**CLEAN, "dirty": True})
    assert dirty == {"spectral-bench": f"{ours}+1a2b3c4d5e6f.dirty"}
    assert optimizer_packages(own, NOTHING) == {"spectral-bench": ours}  # no checkout


def test_a_competitor_is_named_by_its_package() -> None:
    pytest.importorskip("pytorch_optimizer")
    version = importlib.metadata.version("pytorch-optimizer")
    component = {"_target_": "pytorch_optimizer.Lion"}
    assert optimizer_packages(component, CLEAN) == {"pytorch-optimizer": version}
    around = {"_target_": "bench.competitors.scalable_shampoo.ScalableShampoo"}
    ours = importlib.metadata.version("spectral-bench")
    assert optimizer_packages(around, NOTHING) == {
        "spectral-bench": ours,
        "pytorch-optimizer": version,
    }


def test_a_module_of_no_package_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "my_own_file", ModuleType("my_own_file"))
    assert optimizer_packages({"_target_": "my_own_file.Mine"}, CLEAN) == {"my_own_file": None}
