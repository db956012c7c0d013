"""What is used of Hydra without being documented still is as it was.

Seen to work with Hydra 1.3.8 and OmegaConf 2.3.1, and with Hydra 1.4.0rc3 and OmegaConf 2.4.1rc1.
A failure here with other versions says which private part has changed: mend its function in
bench/hydra_private.py, or lower the bound in pyproject.toml.
"""

from __future__ import annotations

import inspect
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import omegaconf
import pytest
from hydra import compose
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import InstantiationException, MissingConfigException
from hydra.plugins.completion_plugin import DefaultCompletionPlugin
from hydra.types import HydraContext
from omegaconf import OmegaConf

from bench import config, hydra_private
from bench import files as paths
from bench.compose import composing
from bench.launch.grid import combinations, master_config
from bench.launch.launcher import LocalLauncher
from bench.tuning import settings

NAMES = {"model": "mlp", "dataset": "digits", "optimizer": "adamw"}


@pytest.fixture(autouse=True)
def _say_the_versions(request: pytest.FixtureRequest) -> Any:
    """Name the versions beside a failure."""
    yield
    print(f"with Hydra {hydra.__version__}, OmegaConf {omegaconf.__version__}")


@pytest.mark.parametrize(
    ("function", "taken"),
    [
        (ConfigRepository.group_exists, ["config_path"]),
        (ConfigRepository.get_group_options, ["group_name", "results_filter"]),
        (ConfigLoader.load_configuration, ["config_name", "overrides", "run_mode"]),
        (ConfigLoader.load_sweep_config, ["master_config", "sweep_overrides"]),
        (Plugins.instantiate_launcher, ["hydra_context", "task_function", "config"]),
        (DefaultCompletionPlugin._query, ["config_name", "line"]),
        (HydraContext, ["config_loader", "callbacks"]),
        (Callbacks, []),
        (setup_globals, []),
        (GlobalHydra.config_loader, []),
        (GlobalHydra.is_initialized, []),
        (GlobalHydra.clear, []),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_a_private_part_takes_what_it_took(function: Callable[..., Any], taken: list[str]) -> None:
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    assert names[: len(taken)] == taken, (
        f"{function.__qualname__} of Hydra {hydra.__version__} takes {names}, and took {taken}: "
        "see its use in bench/hydra_private.py"
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ in which settings have been tuned."""
    shutil.copytree(paths.conf_dir(), tmp_path / "conf")
    monkeypatch.setattr(paths, "home", lambda: tmp_path)
    settings.write(
        settings.file_of(settings.folder(True), NAMES), {"optimizer.lr": 0.031}, {"trials": 5}
    )
    assert (tmp_path / "conf" / "tuned").is_dir()
    return tmp_path


@pytest.mark.usefixtures("home")
def test_tuned_is_a_value_not_a_choice_of_a_file() -> None:
    assert config.load(["model=mlp", "tuned=true"]).optimizer["lr"] == 0.031
    assert config.load(["model=mlp", "tuned=false"]).optimizer["lr"] == 0.002
    with composing() as loader:
        assert hydra_private.complete(loader, "train", [], "tun") == ["tuned="]


@pytest.mark.usefixtures("home")
def test_other_groups_are_groups() -> None:
    assert config.load(["optimizer=sgd", "hydra/launcher=slurm"]).optimizer["momentum"] == 0.9
    with pytest.raises(MissingConfigException, match="optimizer/adamx"):
        config.load(["optimizer=adamx"])


def test_every_combination_of_a_multirun_and_the_config_of_each() -> None:
    words = [
        "optimizer=adamw,muon",
        "seed=range(0,2)",
        "model=mlp",
        "model.hidden=[8]",
        "~trainer.curvature",
    ]
    with composing() as loader:
        master = master_config(loader, words)
        made = combinations(master)
        one = hydra_private.load_combination(loader, master, made[-1])
    assert made == [
        [f"optimizer={name}", f"seed={seed}", "model=mlp", "model.hidden=[8]", "~trainer.curvature"]
        for name in ("adamw", "muon")
        for seed in (0, 1)
    ]
    assert (one.seed, one.hydra.runtime.choices.optimizer, one.model.hidden) == (1, "muon", [8])


def test_a_pattern_stands_for_the_files_that_it_fits() -> None:
    with composing():
        found = hydra_private.split_combinations(["optimizer=glob(sgd*)"])
    files = sorted(path.stem for path in (paths.conf_dir() / "optimizer").glob("sgd*.yaml"))
    assert sorted(found) == [[f"optimizer={name}"] for name in files]


def test_the_launcher_of_a_config_outside_of_an_application() -> None:
    with composing() as loader:
        hydra_private.register_interpolations()
        master = master_config(loader, ["hydra.launcher.workers=3"])
        launcher = hydra_private.make_launcher(master, loader)
    assert isinstance(launcher, LocalLauncher)
    assert launcher.workers == 3


def test_a_resolver_is_replaced_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for answer in ("first", "second"):
            hydra_private.register_resolver("bench_test", lambda answer=answer: answer)
            assert OmegaConf.create({"key": "${bench_test:}"}).key == answer
    OmegaConf.clear_resolver("bench_test")


def test_composing_and_building_warn_of_nothing() -> None:
    component = {
        "_target_": "torch.nn.Sequential",
        "_args_": [{"_target_": "torch.nn.ReLU"}, {"_target_": "torch.nn.Identity"}],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with composing():
            compose("train", overrides=["optimizer=muon"], return_hydra_config=True)
        assert len(hydra_private.instantiate(component)) == 2


@pytest.mark.skipif(
    hydra_private._HYDRA < (1, 4), reason="before 1.4 Hydra does not ask what is allowed"
)
def test_of_the_standard_library_only_what_the_config_names_is_allowed() -> None:
    component = {"_target_": "builtins.dict", "value": {"_target_": "fractions.Fraction"}}
    assert hydra_private.instantiate(component) == {"value": 0}
    with pytest.raises(InstantiationException, match="Fraction"):
        hydra_private.instantiate(
            {"_target_": "builtins.dict"}, value={"_target_": "fractions.Fraction"}
        )


def test_what_a_target_raises_is_wrapped() -> None:
    with pytest.raises(InstantiationException) as caught:
        hydra_private.instantiate({"_target_": "torch.nn.Linear", "in_features": -1})
    assert isinstance(caught.value.__cause__, TypeError)


def test_what_a_target_returns_may_be_of_any_package() -> None:
    """A network of another package, by a function of ours; a function made by a schedule."""
    image = {"in_channels": 3, "num_classes": 10, "image_size": 32}
    model = hydra_private.instantiate({"_target_": "bench.models.resnet.resnet18"}, **image)
    assert type(model).__module__.startswith("torchvision.")
    made = hydra_private.instantiate({"_target_": "bench.schedules.constant", "_partial_": True})
    assert made(100)(50) == 1


def test_without_plugins_torch_stays_out() -> None:
    import subprocess

    code = (
        "import sys; from bench import hydra_private; hydra_private.without_plugins()\n"
        "from bench.compose import composing\n"
        "with composing() as loader: "
        "print(hydra_private.complete(loader, 'train', [], 'optimizer=torch_'))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=paths.home()
    )
    assert (done.stdout, done.stderr) == ("['optimizer=torch_muon']\n", "")
