"""A user's mistake is exit status 2 and one line on standard error, with nothing written."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from bench import cli
from bench.cli import INTERRUPTED, RUNS_FAILED, USAGE_ERROR, explain, guarded
from bench.errors import RunsFailedError, UserError

Command = Callable[..., tuple[int, str, str]]

# One of each kind; test_config.py has the others.
MISTAKES = [
    (["optimizer=adamx"], "optimizer=adamx: there is no such optimizer; did you mean adam?"),
    (["trainer.epoch=3"], "trainer.epoch: unknown key; did you mean epochs?"),
    (["+optimizer.lrr=3"], "optimizer.lrr: torch.optim.AdamW has no such option; did you mean lr?"),
    (["seed=abc"], "seed: input should be a valid integer"),
    (["optimizer.lr=-1"], "Invalid learning rate: -1"),
    (["optimizer=spectral_newton", "optimizer.damping=0"], "damping must be > 0"),
    (["optimizer=scalar_spectral_adam"], "needs exponents"),
    (["trainer.batch_size=1295"], "trainer.batch_size: batch size 1295 does not fit"),
    (["trainer.device=gpu"], "trainer.device: 'gpu' is not a device; did you mean cpu?"),
    (["dataset=cifar10"], "spectral-bench prepare dataset=cifar10"),
    (["dataset.validation=2000"], "dataset=digits: validation=2000 cannot be taken"),
    (["optimizer=adamw,muon"], "for a grid of several values add -m"),
    (["optimizer=null"], "Config group override must be a string"),
    (["optimizer.lr"], "optimizer.lr: cannot be read"),
]


@pytest.mark.parametrize(("words", "says"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(
    command: Command, tmp_path: Path, words: list[str], says: str
) -> None:
    status, out, err = command(*words)
    assert status == USAGE_ERROR == 2
    assert says in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert out == ""
    assert list(tmp_path.iterdir()) == []  # no runs folder, no outputs/, no log


def test_a_mistake_in_a_grid_names_its_combination(command: Command, tmp_path: Path) -> None:
    status, out, err = command("-m", "optimizer=adamw,muon", "seed=0,-1", "tracker=none")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "seed: input should be greater than or equal to 0, not -1" in err
    assert "(in: optimizer=adamw seed=-1 tracker=none)" in err
    assert not (tmp_path / "runs").exists()


def test_a_real_process_ends_with_status_2_and_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.train", "trainer.batch_size=5000", "tracker=none"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "trainer.batch_size: batch size 5000 does not fit dataset digits" in done.stderr
    assert "choose a batch size from 1 to 1294" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_is_readable_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    status, out, err = command("--help")
    assert (status, err) == (0, "")
    for word in ("Usage:", "optimizer: ", "spectral_newton", "seed: 0", "spectral-bench prepare"):
        assert word in out
    assert "tuned/" not in out  # settings that bench.tune wrote are no group
    assert max(len(line) for line in out.splitlines()) <= 400  # one line a group; terminals wrap it
    assert list(tmp_path.iterdir()) == []


def test_the_whole_config_can_be_shown(command: Command, tmp_path: Path) -> None:
    status, out, err = command("optimizer=muon", "--cfg", "job")
    assert (status, err) == (0, "")
    shown = OmegaConf.create(out)
    assert shown.optimizer._target_ == "optimizers.Muon"
    assert list(tmp_path.iterdir()) == []


def test_a_good_command_ends_with_0(command: Command, tmp_path: Path) -> None:
    words = [
        "model=mlp",
        "model.hidden=[8]",
        "tracker=none",
        "trainer.epochs=1",
        "trainer.batch_size=600",
        "trainer.device=cpu",
        "trainer.threads=1",
    ]
    status, out, err = command(*words)
    assert (status, err) == (0, "")
    assert out.count("\n") == 1  # a short run prints its result alone
    assert ": done, test accuracy " in out
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    status, again, err = command(*words)
    assert (status, err) == (0, "")
    assert again == out.replace(": done", ": already done")


# -- guarded --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("a: wrong"), USAGE_ERROR, "error: a: wrong\n"),
        (RunsFailedError("1 of 2 runs failed:\n  x"), RUNS_FAILED, "1 of 2 runs failed:\n  x\n"),
        (HydraException("first\n\n  second\nthird"), USAGE_ERROR, "error: first second\n"),
        (
            KeyboardInterrupt(),
            INTERRUPTED,
            "interrupted: the same command goes on where this one stopped\n",
        ),
    ],
)
def test_what_is_the_users_to_mend_has_no_traceback(
    error: BaseException,
    status: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        guarded(fail)
    assert caught.value.code == status
    assert capsys.readouterr().err == line
    assert (USAGE_ERROR, RUNS_FAILED, INTERRUPTED) == (2, 1, 130)


@pytest.mark.parametrize("error", [ValueError("ours"), KeyError("ours"), AssertionError("ours")])
def test_what_is_ours_keeps_its_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        guarded(fail)
    assert caught.value is error


def test_warnings_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def warn() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = cli._show_warning
            warnings.warn("tracker stopped", stacklevel=1)

    guarded(warn)
    assert capsys.readouterr().err == "warning: tracker stopped\n"


def test_what_nobody_foresaw_is_cut_to_two_lines() -> None:
    assert explain(HydraException("a\n\n b \nc\nd")) == "a b"
