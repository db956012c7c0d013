"""Tab completion, in the shells themselves where they are installed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.completion import SCRIPTS, main
from bench.files import home

NEWTONS = [f"spectral_newton{end}" for end in ("", "_alpha1", "_by_layer", "_measured", "_paper")]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which the command is found, and no settings of the user's."""
    script = tmp_path / "bin" / "spectral-bench"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(1, {str(home())!r})\n"
        "from bench.main import main\nmain()\n"
    )
    script.chmod(0o755)
    path = os.pathsep.join([str(script.parent), os.environ["PATH"]])
    return {"PATH": path, "HOME": str(tmp_path), "TERM": "dumb", "PS1": "> ", "COLUMNS": "200"}


def offered(environment: dict[str, str], *words: str) -> list[str]:
    """What the command tells a shell."""
    done = subprocess.run(
        ["spectral-bench", "completion", "candidates", *words],
        env=environment,
        cwd=home(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


class Terminal:
    """An interactive shell at a terminal of its own; what is typed comes with what it answers."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.execvpe(command[0], command, environment)

    def type(self, text: str, until: str, seconds: float = 60) -> str:
        """Type ``text``; return all that is shown until ``until`` is, or fail."""
        os.write(self.terminal, text.encode())
        shown, end = "", time.monotonic() + seconds
        while until not in shown:
            assert time.monotonic() < end, f"{until!r} is not in {shown!r}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                shown += os.read(self.terminal, 65536).decode().replace("\a", "")
        return shown

    def close(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.terminal)


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], ""),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u; "),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_at_a_terminal(shell: str, environment: dict[str, str]) -> None:
    command, before = SHELLS[shell]
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    terminal = Terminal(command, environment)
    try:
        setup = f'{before}eval "$(spectral-bench completion {shell})"; echo rea""dy\n'
        terminal.type(setup, until="ready")
        # One candidate is put in whole, and a blank after it; a command's options follow.
        terminal.type("spectral-bench train optimizer=torch\t", until="optimizer=torch_muon")
        terminal.type("\x15spectral-bench stu\t+sweeps=study_a_s\t", until="+sweeps=study_a_small")
        # Of several, what they have in common; at a second tab they are listed.
        terminal.type("\x15spectral-bench train optimizer=spec\t", until="spectral_newton")
        shown = terminal.type("\t\t", until=NEWTONS[-1])
        assert all(name in shown for name in NEWTONS[1:])
    finally:
        terminal.close()


def test_tab_in_bash_where_the_equals_sign_breaks_no_word(environment: dict[str, str]) -> None:
    terminal = Terminal(SHELLS["bash"][0], environment)
    try:
        setup = 'COMP_WORDBREAKS=${COMP_WORDBREAKS//=}; eval "$(spectral-bench completion bash)"'
        terminal.type(f'{setup}; echo rea""dy\n', until="ready")
        terminal.type("spectral-bench train optimizer=torch\t", until="optimizer=torch_muon")
    finally:
        terminal.close()


def test_tab_in_fish(environment: dict[str, str]) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    ask = (
        "spectral-bench completion fish | source; complete -C 'spectral-bench train optimizer=spec'"
    )
    done = subprocess.run(
        ["fish", "--no-config", "-c", ask],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [f"optimizer={name}" for name in NEWTONS]


def test_commands(environment: dict[str, str]) -> None:
    assert offered(environment, "ta") == ["tables"]
    assert offered(environment, "speed", "") == ["curvature", "epoch", "step", "tables"]
    assert offered(environment, "help", "tu") == ["tune"]
    assert offered(environment, "completion", "") == list(SCRIPTS)
    assert offered(environment, "nonsense", "") == []
    assert {"speed", "train", "help", "--version"} <= set(offered(environment, ""))


def test_groups_values_and_sweeps(environment: dict[str, str]) -> None:
    files = sorted(path.stem for path in (home() / "sweeps").glob("*.yaml"))
    assert offered(environment, "plan", "+sweeps=") == [f"+sweeps={name}" for name in files]
    assert offered(environment, "train", "-m", "optimizer=adamw,torch_") == [
        "optimizer=adamw,torch_muon"
    ]
    assert offered(environment, "tune", "optimizer=muon", "optimizer.lr") == ["optimizer.lr="]
    assert offered(environment, "train", "tuned=") == ["tuned=false", "tuned=true"]
    assert offered(environment, "train", "seed=0,1", "workers=2", "ret") == ["retry="]
    assert offered(environment, "train", "seed=[") == []
    first = offered(environment, "train", "")
    assert {"optimizer=", "optimizer.", "+sweeps=", "seed="} <= set(first)
    # Neither the folders beside conf/, which are groups to Hydra, nor the group of no choice.
    assert not {"bench/", "docs/", "sweeps=", "tuned/"} & set(first)


def test_options_of_other_commands(environment: dict[str, str]) -> None:
    assert offered(environment, "tables", "format=m") == ["format=markdown"]
    assert offered(environment, "tables", "ids=") == ["ids=true", "ids=false"]
    assert offered(environment, "sync", "runs=runs", "") == ["project=", "entity=", "sweep="]
    assert offered(environment, "sync", "runs=conf/tra") == ["runs=conf/tracker/", *_train_files()]


def _train_files() -> list[str]:
    names = sorted(path.name for path in (home() / "conf").glob("tra*"))
    return [
        f"runs=conf/{name}{'/' if (home() / 'conf' / name).is_dir() else ''}"
        for name in names
        if name != "tracker"
    ]


def test_a_shell_that_it_does_not_know_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tcsh"]) == 2
    assert (
        capsys.readouterr().err
        == "error: tcsh: write spectral-bench completion bash, zsh or fish\n"
    )
