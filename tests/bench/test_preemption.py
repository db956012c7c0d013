"""A signal leaves a note, the loop leaves at its next step, and nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import preemption, train
from bench.config import RunConfig
from bench.identity import identify
from bench.preemption import StopRequested
from bench.run_folder import RunFolder


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in preemption.SIGNALS}
    yield
    preemption.clear()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_each_signal_is_a_request(number: signal.Signals) -> None:
    preemption.listen()
    assert preemption.requested() is None
    os.kill(os.getpid(), number)
    assert preemption.requested() == number.name
    preemption.clear()
    assert preemption.requested() is None


@pytest.mark.parametrize("seconds", [0, 1000])
@pytest.mark.parametrize("at", [1, 2, 4, 5, 7])
@pytest.mark.parametrize("every", [None, 2])  # of evaluations: at the step of the stop, or not
def test_a_stopped_loop_goes_on_to_the_same_bits(
    build: Any, assert_same: Any, at: int, seconds: int, every: int | None
) -> None:
    whole = build("whole", evaluate_every=every)
    whole.run()
    stop = build.Stop(at, lambda: preemption.request("SIGUSR2"))
    stopped = build("part", stop=stop, checkpoint_seconds=seconds, evaluate_every=every)
    with pytest.raises(StopRequested, match=f"SIGUSR2 at step {at} of 8"):
        stopped.run()
    checkpoint = stopped.folder.load_checkpoint()
    assert checkpoint["step"] == at  # of the very step, however rarely it writes one
    preemption.clear()
    resumed = build("part", evaluate_every=every)
    assert resumed.step == at
    resumed.run()
    assert_same(whole.state_dict(), resumed.state_dict())
    assert whole.folder.history() == resumed.folder.history()


def test_a_request_while_an_epoch_is_written_down_has_its_checkpoint(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = build("run", checkpoint_seconds=1000)
    write = RunFolder.write_history

    def request(folder: RunFolder, history: list[Any]) -> None:
        write(folder, history)
        preemption.request("SIGTERM")

    monkeypatch.setattr(RunFolder, "write_history", request)
    with pytest.raises(StopRequested, match="SIGTERM at step 4 of 8"):
        loop.run()
    assert loop.folder.load_checkpoint()["step"] == 4


def test_a_request_at_the_last_step_changes_nothing(build: Any) -> None:
    loop = build("run", stop=build.Stop(8, lambda: preemption.request("SIGTERM")))
    loop.run()
    assert loop.step == 8
    assert loop.folder.load_checkpoint()["step"] == 8


def test_a_stopped_run_is_still_running_and_free(
    watched: Callable[..., RunConfig], parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = watched()
    folder = RunFolder(Path(run.runs_dir) / identify(run).id)
    preemption.request("SIGUSR1")
    with pytest.raises(StopRequested):
        train.train(run)
    assert folder.status["state"] == "running"
    assert folder.owner is None
    assert parts.Watcher.calls[-1] == ("abandon", False)
    preemption.clear()
    assert train.train(run)["state"] == "done"


def test_a_run_that_was_taken_over_writes_nothing_more(build: Any) -> None:
    loop = build("run")
    loop.folder.acquire()
    loop.folder.set_status("running")
    before = loop.folder.status
    (loop.folder.path / ".lock").write_text("{}")
    for write in (
        lambda: loop.folder.commit([], {}),
        lambda: loop.folder.write_history([]),
        lambda: loop.folder.set_status("failed"),
        lambda: loop.folder.finish("done", None, {}),
    ):
        with pytest.raises(StopRequested, match="taken this run over"):
            write()
    assert loop.folder.status == before
    assert loop.folder.load_checkpoint() is None
    assert not (loop.folder.path / "summary.json").exists()
