"""The command ``spectral-bench``: what it lists, and that a command is its ``python -m`` form."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench import main as entry
from bench.files import home

from .conftest import QUICK

Bench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Run the command in an empty folder, as its script does."""

    def run(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        script = f"import sys; sys.path.insert(1, {str(home())!r}); from bench.main import main; "
        return subprocess.run(
            [sys.executable, "-P", "-c", script + more.get("before", "") + "main()", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_installed_script_is_this_one() -> None:
    scripts = tomllib.loads((home() / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {entry.PROGRAM: f"{entry.main.__module__}:{entry.main.__name__}"}


def test_alone_it_lists_ten_commands_and_how_to_see_the_rest(bench: Bench) -> None:
    out = bench().stdout.splitlines()
    rows = [line for line in out if line.startswith("  ")]
    assert [row.split()[0] for row in rows] == list(entry.DAILY)
    assert len(rows) == 10
    assert all(len(line) <= 80 for line in out)
    assert out[-1].endswith("spectral-bench help lists all.")


@pytest.mark.parametrize("word", ["help", "--help", "-h"])
def test_help_lists_every_command(bench: Bench, word: str) -> None:
    out = bench(word).stdout
    assert all(f"\n  {name} " in out for name in entry.COMMANDS)


def test_help_imports_nothing_heavy(bench: Bench) -> None:
    ask = "import atexit; atexit.register(lambda: print(sorted(sys.modules))); "
    loaded = bench("help", before=ask).stdout.splitlines()[-1]
    assert "'bench.main'" in loaded
    assert not any(
        f"'{name}'" in loaded for name in ("torch", "hydra", "numpy", "pydantic", "rich")
    )


def test_its_version_is_the_packages(bench: Bench) -> None:
    assert bench("--version").stdout == f"spectral-bench {version('spectral-bench')}\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["tran"], "tran: there is no such command; did you mean train? spectral-bench help"),
        (["zzz"], "zzz: there is no such command; spectral-bench help lists all"),
        (["speed"], "speed: say which: speed step, speed epoch, speed curvature, speed tables"),
        (["speed", "zzz"], "speed: say which: "),
    ],
)
def test_an_unknown_command_is_one_line(bench: Bench, words: list[str], line: str) -> None:
    done = bench(*words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1


def test_every_documented_module_is_a_command() -> None:
    """Each module of ours that runs by itself, but for the worker, which only a pool starts."""
    runnable = {
        ".".join(path.relative_to(home()).with_suffix("").parts)
        for package in ("bench", "analysis")
        for path in (home() / package).rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text()
    }
    named = {command.module for command in entry.COMMANDS.values()}
    assert runnable - named == {"bench.main", "bench.launch.worker"}
    assert all(find_spec(name) for name in named)


@pytest.mark.slow  # each imports all that its command needs
@pytest.mark.parametrize("name", sorted(entry.COMMANDS.keys() - {"train"}))
def test_every_command_has_a_help_page(bench: Bench, name: str) -> None:
    done = bench(*name.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 4


def test_a_command_is_its_python_m_form(bench: Bench, tmp_path: Path) -> None:
    words = ["optimizer=muon", "seed=3", "--cfg", "job"]
    module = subprocess.run(
        [sys.executable, "-m", "bench.train", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(home())},
        capture_output=True,
        text=True,
        check=True,
    )
    done = bench("train", *words)
    assert (done.stdout, done.stderr, done.returncode) == (module.stdout, module.stderr, 0)
    assert "optimizers.muon" in done.stdout.lower()


def test_a_users_mistake_keeps_its_line_and_status(bench: Bench) -> None:
    done = bench("plan", "optimizer=muom")
    assert done.returncode == 2
    assert "did you mean muon?" in done.stderr
    done = bench("help", "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "launch=<" in done.stdout


def test_components_in_the_working_directory_are_found(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "of_mine.py").write_text("from torch.optim import SGD\n\n\nclass Mine(SGD): ...\n")
    done = bench("train", *QUICK, "optimizer=sgd", "optimizer._target_=of_mine.Mine")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "runs").glob("digits-mlp-*/summary.json"))) == 1


@pytest.mark.parametrize(
    "words", [["help"], ["tables", "--help"], ["plan", *QUICK, "tracker=none"]]
)
def test_output_that_nobody_reads_ends_a_command_quietly(words: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "bench.main", *words], stdout=writer, stderr=subprocess.PIPE,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(home())}, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
