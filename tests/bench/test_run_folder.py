"""The run folder: states, the lock, checkpoints that can be trusted."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import UserError
from bench.run_folder import RunFolder

CONFIG = {"id": "digits-mlp-s0-abc", "seed": 0}
HISTORY = [{"step": step, "epoch": step / 4, "train/loss": 1 / step} for step in (2, 4, 6, 8)]


def checkpoint(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    weights = {"w": torch.randn(20, 20, generator=generator), "b": torch.zeros(3)}
    return {"step": step, "model": weights, "clock": {"data": 0.5}, "window": [torch.ones(())]}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "digits-mlp-s0-abc")
    made.path.mkdir(parents=True)
    return made


@pytest.fixture
def committed(folder: RunFolder) -> RunFolder:
    """A folder with two checkpoints, of steps 4 and 8."""
    folder.commit(HISTORY[:2], checkpoint(4))
    folder.commit(HISTORY, checkpoint(8))
    return folder


# -- status ---------------------------------------------------------------------------------------


def test_a_run_that_never_began_has_no_state_and_no_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "x")
    assert folder.status == {}
    assert not folder.finished
    assert (folder.config, folder.summary, folder.provenance) == ({}, {}, {})
    assert folder.history() == []
    assert folder.load_checkpoint() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("state", "finished"),
    [("running", False), ("done", True), ("failed", False), ("diverged", True)],
)
def test_states(folder: RunFolder, state: Any, finished: bool) -> None:
    folder.set_status(state, "why")
    status = folder.status
    assert (status["state"], status["cause"], status["tracked"]) == (state, "why", [])
    assert status["pid"] == os.getpid()
    assert status["host"]
    assert status["updated"].endswith("+00:00")
    assert folder.finished is finished


@pytest.mark.parametrize("content", ["", "{", '"done"', "null"])
def test_a_status_that_cannot_be_read_is_no_result(folder: RunFolder, content: str) -> None:
    # A truncated run must not be counted as complete.
    folder.set_status("done")
    (folder.path / "status.json").write_text(content)
    assert not folder.finished
    assert folder.status == {}


def test_begin_keeps_one_entry_of_provenance_an_attempt(folder: RunFolder) -> None:
    for device in ("cpu", "cuda"):
        folder.begin(CONFIG, {"device": device})
    assert folder.config == CONFIG
    assert folder.provenance == {"attempts": [{"device": "cpu"}, {"device": "cuda"}]}
    assert folder.status["state"] == "running"


def test_a_later_attempt_says_when_the_run_began(folder: RunFolder) -> None:
    for hour in (1, 2, 3):
        folder.begin(CONFIG, {"started": f"2026-01-01T0{hour}:00:00+00:00"})
    first, *later = folder.provenance["attempts"]
    assert "began" not in first
    assert [one["began"] for one in later] == [first["started"]] * 2


def test_the_summary_is_there_before_the_state_says_so(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    folder.begin(CONFIG, {})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folder, "set_status", dies)
        folder.finish("done", None, {"test/accuracy": 0.5})
    assert not folder.finished
    folder.finish("diverged", "training loss is nan at step 3", {"steps": 2})
    assert folder.summary == {"steps": 2}
    assert folder.status["cause"] == "training loss is nan at step 3"
    assert folder.finished


# -- the lock -------------------------------------------------------------------------------------


@pytest.fixture
def other_process(folder: RunFolder) -> Iterator[Callable[[], int]]:
    """Start a process that takes the lock and keeps it; return its id."""
    started = []

    def start() -> int:
        told, tell = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of forks where there are threads
            pid = os.fork()
        if pid == 0:
            try:
                folder.acquire()
                folder.set_status("running")
                os.write(tell, b"x")
                while True:
                    signal.pause()
            finally:
                os._exit(1)
        started.append(pid)
        assert os.read(told, 1) == b"x"
        os.close(told)
        os.close(tell)
        return pid

    yield start
    for pid in started:
        end(pid)


def end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_a_second_process_is_refused_until_the_first_one_is_killed(
    folder: RunFolder, other_process: Callable[[], int]
) -> None:
    pid = other_process()
    with pytest.raises(UserError) as caught:
        folder.acquire()
    assert str(caught.value) == (
        f"{folder.path}: process {pid} on {socket.gethostname()} is working on this run; "
        "wait for it or end it"
    )
    assert folder.status["state"] == "running"
    end(pid)  # SIGKILL: it cannot have tidied up
    folder.acquire()
    folder.release()


def test_the_lock_can_be_taken_again_after_release(folder: RunFolder) -> None:
    folder.acquire()
    second = RunFolder(folder.path)
    with pytest.raises(UserError, match=f"process {os.getpid()} on .* is working on this run"):
        second.acquire()
    folder.release()
    second.acquire()
    second.release()
    folder.release()  # a second release is nothing


def test_taking_a_run_makes_its_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    folder.acquire()
    assert folder.path.is_dir()
    assert "a/b" in repr(folder)
    folder.release()


# -- history --------------------------------------------------------------------------------------


def test_history_up_to_a_step(committed: RunFolder) -> None:
    assert committed.history() == HISTORY
    assert committed.history(up_to_step=5) == HISTORY[:2]
    assert committed.history(up_to_step=6) == HISTORY[:3]
    assert committed.history(up_to_step=1) == []
    committed.write_history(HISTORY[:1])
    assert committed.history() == HISTORY[:1]


# -- checkpoints ----------------------------------------------------------------------------------


def loaded_step(folder: RunFolder) -> int:
    """The step of the checkpoint that loads, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = folder.load_checkpoint()
    assert state is not None
    return int(state["step"])


def test_the_newest_checkpoint_and_the_one_before(
    committed: RunFolder, assert_same: Callable[..., None]
) -> None:
    assert_same(committed.load_checkpoint(), checkpoint(8))
    (committed.path / "checkpoint.pt").unlink()
    assert loaded_step(committed) == 4
    names = {path.name for path in committed.path.iterdir()}
    assert names == {"history.jsonl", "checkpoint.prev.pt"}


def test_the_first_checkpoint_has_none_before_it(folder: RunFolder) -> None:
    folder.commit(HISTORY[:1], checkpoint(2))
    assert not (folder.path / "checkpoint.prev.pt").exists()
    assert loaded_step(folder) == 2


def test_a_checkpoint_truncated_anywhere_falls_back_with_a_warning(committed: RunFolder) -> None:
    path = committed.path / "checkpoint.pt"
    whole = path.read_bytes()
    for length in [*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.warns(UserWarning, match="using an earlier state of the run") as caught:
            state = committed.load_checkpoint()
        assert state is not None, length
        assert state["step"] == 4, length
        assert len(caught) == 1
        text = str(caught[0].message)
        assert "\n" not in text
        assert str(path) in text
    path.write_bytes(whole)
    assert loaded_step(committed) == 8


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 5000, b"garbage" * 100, b"PK\x03\x04" + b"\1" * 99]
)
def test_garbage_falls_back_with_a_warning(committed: RunFolder, content: bytes) -> None:
    (committed.path / "checkpoint.pt").write_bytes(content)
    with pytest.warns(UserWarning, match=r"checkpoint\.pt cannot be read"):
        state = committed.load_checkpoint()
    assert state is not None
    assert state["step"] == 4


def test_both_unreadable_is_none_with_two_warnings(committed: RunFolder) -> None:
    for name in ("checkpoint.pt", "checkpoint.prev.pt"):
        (committed.path / name).write_bytes(b"torn")
    with pytest.warns(UserWarning, match="cannot be read") as caught:
        assert committed.load_checkpoint() is None
    assert len(caught) == 2


class Evil:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))]
)
def test_a_checkpoint_cannot_run_code(
    committed: RunFolder, tmp_path: Path, save: Callable[..., Any]
) -> None:
    save({"step": 9, "model": Evil(tmp_path / "evil")}, committed.path / "checkpoint.pt")
    with pytest.warns(UserWarning, match="cannot be read"):
        state = committed.load_checkpoint()
    assert state is not None
    assert state["step"] == 4
    assert not (tmp_path / "evil").exists()


def test_a_readable_file_of_another_kind_falls_back(committed: RunFolder) -> None:
    torch.save([1, 2], committed.path / "checkpoint.pt")
    with pytest.warns(UserWarning, match="cannot be read"):
        state = committed.load_checkpoint()
    assert state is not None
    assert state["step"] == 4


def test_a_commit_that_cannot_be_written_keeps_both_checkpoints(committed: RunFolder) -> None:
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        committed.commit(HISTORY, {"step": 12, "model": lambda: None})
    assert loaded_step(committed) == 8
    (committed.path / "checkpoint.pt").unlink()
    assert loaded_step(committed) == 4
    assert not list(committed.path.glob("*.tmp")) + list(committed.path.glob(".*.tmp"))


def test_a_kill_between_the_two_renames_leaves_the_one_before(
    committed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def dies(self: Path, target: Path) -> Path:
        if Path(target).name == "checkpoint.pt":
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", dies)
        committed.commit([*HISTORY, {"step": 12}], checkpoint(12))
    assert loaded_step(committed) == 8
    assert committed.history(up_to_step=8) == HISTORY
    committed.commit([*HISTORY, {"step": 12}], checkpoint(12))  # and the next one goes as ever
    assert loaded_step(committed) == 12


def test_torn_temporary_files_of_a_killed_process_go_away(committed: RunFolder) -> None:
    torn = committed.path / ".checkpoint.new.pt.123.tmp"
    torn.write_bytes(b"torn")
    committed.acquire()
    committed.release()
    assert not torn.exists()
    assert loaded_step(committed) == 8
