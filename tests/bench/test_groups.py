"""A folder of tuned settings beside the groups of conf/ is none of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hydra.errors import MissingConfigException

from bench import config, files
from bench.tuning import settings

NAMES = {"model": "mlp", "dataset": "digits", "optimizer": "adamw"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ in which settings have been tuned."""
    shutil.copytree(files.conf_dir(), tmp_path / "conf")
    monkeypatch.setattr(files, "home", lambda: tmp_path)
    settings.write(
        settings.file_of(settings.folder(True), NAMES), {"optimizer.lr": 0.031}, {"trials": 5}
    )
    assert (tmp_path / "conf" / "tuned").is_dir()
    return tmp_path


@pytest.mark.usefixtures("home")
def test_tuned_is_a_value_not_a_choice_of_a_file() -> None:
    assert config.load(["model=mlp", "tuned=true"]).optimizer["lr"] == 0.031
    assert config.load(["model=mlp", "tuned=false"]).optimizer["lr"] == 0.002


@pytest.mark.usefixtures("home")
def test_other_groups_are_groups() -> None:
    assert config.load(["optimizer=sgd", "hydra/launcher=slurm"]).optimizer["momentum"] == 0.9
    with pytest.raises(MissingConfigException, match="optimizer/adamx"):
        config.load(["optimizer=adamx"])
