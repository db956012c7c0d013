"""The command that gets datasets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import files
from bench.errors import UserError
from bench.prepare import main, prepare

MODULE = '''
"""A dataset module made for this test."""
from pathlib import Path


def load(root, seed, colour):
    raise AssertionError("prepare must not load")


def prepare(root: Path, colour: str) -> str:
    (root / "made").write_text(colour)
    return f"{colour} made"
'''


def test_digits_need_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["dataset=digits", f"data_dir={tmp_path}"])
    assert capsys.readouterr().out == "digits: nothing is needed, the images are embedded\n"
    assert not list(tmp_path.iterdir())


def test_as_a_command_from_another_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.prepare", "dataset=digits"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing is needed" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_dataset_of_ones_own_is_prepared_by_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_images_for_prepare.py").write_text(MODULE)
    (tmp_path / "own.yaml").write_text("_target_: own_images_for_prepare.load\ncolour: green\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert prepare("own", tmp_path, folder=tmp_path) == "green made"
    assert (tmp_path / "made").read_text() == "green"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dataset=cifar-10"], "did you mean cifar10?"),
        (["dataset=nonsense"], "choices: cifar10, cifar100, digits, fashion_mnist"),
        (["dataset=../dataset/digits"], "no such dataset"),
        (["data_set=cifar10"], "did you mean 'dataset='?"),
        (["cifar10"], "options are written key=value, as in dataset=..."),
        (["dataset="], "dataset=: no such dataset"),
        ([], "option 'dataset' is required"),
    ],
)
def test_mistakes_end_in_one_line(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as caught:
        main(words)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_source_that_is_not_there_or_not_needed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset=digits needs no files; leave source out"):
        main(["dataset=digits", f"source={tmp_path}"])
    with pytest.raises(UserError, match=r"source=.*nowhere: there is no such file or folder"):
        main(["dataset=cifar10", f"source={tmp_path / 'nowhere'}"])
    with pytest.raises(UserError, match=r"holds no cifar-10-batches-py"):
        main(["dataset=cifar10", f"source={tmp_path}", f"data_dir={tmp_path}"])


def test_failed_download_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.compat import ensure_torchvision

    ensure_torchvision()
    from torchvision.datasets import CIFAR10

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(UserError, match="cifar10: cannot download") as caught:
        main(["dataset=cifar10", f"data_dir={tmp_path}"])
    captured = capsys.readouterr()
    assert captured.out == (
        f"cifar10: downloading with torchvision into {tmp_path / 'cifar-10-batches-py'}\n"
    )
    assert "cifar-10-python.tar.gz" in str(caught.value)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: spectral-bench prepare dataset=...")


def test_unknown_dataset_is_a_user_error() -> None:
    with pytest.raises(UserError, match="digit"):
        prepare("digit", Path())


@pytest.mark.parametrize("path", sorted((files.conf_dir() / "dataset").glob("*.yaml")), ids=str)
def test_every_shipped_dataset_can_be_asked_for(path: Path, tmp_path: Path) -> None:
    """Each loader is importable and takes the options its file gives it."""
    import inspect

    from hydra.utils import get_object
    from omegaconf import OmegaConf

    loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    options = {str(key): value for key, value in loaded.items()}
    loader = get_object(str(options.pop("_target_")))
    inspect.signature(loader).bind(root=tmp_path, seed=0, **options)
    assert options.get("kind", path.stem) == path.stem  # the command names the file by its kind
