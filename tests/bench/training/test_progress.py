"""What a person sees: a bar on a terminal, few plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import rich

from bench import config
from bench.identity import Identity
from bench.setup import Setup
from bench.training import progress
from bench.training.progress import Lines, TerminalBar, make_progress

ROW = {"step": 10, "epoch": 1.0, "train/loss": 1.23456, "val/accuracy": 0.875}


class Terminal:
    """A pseudo-terminal as standard output."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w")

    def shown(self) -> str:
        self.stream.flush()
        os.set_blocking(self._master, False)
        text = b""
        while True:
            try:
                text += os.read(self._master, 65536)
            except BlockingIOError:
                return text.decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self._master)


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    # Not a fixture: pytest puts its own standard output back between set-up and test.
    made = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", made.stream)
    monkeypatch.setattr(rich, "_console", None)  # made once a process, for the output of then
    try:
        yield made
    finally:
        monkeypatch.undo()
        made.close()


def make(style: str) -> Any:
    run = config.load(["trainer.epochs=4", f"trainer.progress={style}"])
    setup = Setup.of(run)
    return make_progress(replace(setup, identity=Identity("digits-mlp", "")), total_steps=40)


def drive(shown: Any, epochs: int = 4) -> None:
    with shown as entered:
        entered.start_at(40 - 10 * epochs)
        for number in range(1, epochs + 1):
            for _ in range(10):
                entered.advance()
            entered.epoch(number, ROW)


def test_a_short_run_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    drive(make("lines"))
    assert capsys.readouterr() == ("", "")


def test_a_long_run_prints_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.05)
    lines = Lines("digits-mlp", 5, 50)
    lines.epoch(1, ROW)  # too early
    time.sleep(0.06)
    lines.epoch(2, ROW)
    lines.epoch(3, ROW)  # too soon after
    time.sleep(0.06)
    lines.epoch(4, ROW)
    assert capsys.readouterr().out == (
        "digits-mlp: epoch 2/5, train loss 1.2346, validation accuracy 87.5 %\n"
        "digits-mlp: epoch 4/5, train loss 1.2346, validation accuracy 87.5 %\n"
    )


def test_a_long_epoch_prints_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines = Lines("digits-mlp", 2, 4000)
    lines.start_at(1000)
    now += 75  # compiling: of that no estimate can be made
    lines.advance()
    lines.losses({"step": 1001, "epoch": 0.5, "train/loss": 2.5, "lr": 0.1})
    for _ in range(2 + 50):
        now += 1
        lines.advance()
    now += 10  # a minute after the line before
    lines.advance()
    lines.advance()  # too soon after
    assert capsys.readouterr().out.splitlines() == [
        "digits-mlp: step 1001/4000",
        # 60 s for 51 steps, 2946 to go
        "digits-mlp: step 1054/4000, train loss 2.5000, about 0:57:46 left",
    ]


def test_none_is_silent_however_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.0)
    drive(make("lines"))
    assert capsys.readouterr().out.count("\n") == 4
    monkeypatch.setattr(progress, "_SILENT_SECONDS", 0.0)
    drive(make("none"))
    assert capsys.readouterr() == ("", "")


def test_auto_is_lines_in_a_pipe() -> None:
    assert isinstance(make("auto"), Lines)
    assert isinstance(make("bar"), TerminalBar)


def test_auto_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as screen:
        shown = make("auto")
        drive(shown, epochs=2)
        text = screen.shown()
    assert isinstance(shown, TerminalBar)
    assert "digits-mlp" in text
    assert "40/40" in text  # 20 were done before, 20 were made
    assert "validation accuracy 87.5 %" in text
    assert "train loss 1.2346" in text


def test_lines_and_none_are_kept_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as screen:
        drive(make("lines"))
        drive(make("none"))
        assert screen.shown() == ""


def test_the_bar_goes_away_also_when_the_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as screen:
        with pytest.raises(RuntimeError, match="boom"), make("bar") as shown:
            shown.advance()
            raise RuntimeError("boom")
        text = screen.shown()
    assert "digits-mlp" in text
    assert text.endswith("\x1b[2K")  # its line is erased
    assert "\x1b[?25h" in text  # and the cursor shown again
