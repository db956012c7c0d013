"""A run that is interrupted, whenever and however, ends with the bits of one that was not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import MOMENTUM, STEPS, TOTAL, Build, Same, history_file, ran

from bench.run_folder import Row, RunFolder
from bench.training.parallel import Team

ADAMW = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.01, "weight_decay": 0.1}
MUON = {
    "_target_": "optimizers.Muon",
    "_partial_": True,
    "params": {"_target_": "optimizers.partition.hidden_matrices", "_partial_": True},
    "lr": 0.02,
}


# -- interruptions --------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint_every", [None, 1, 3])
@pytest.mark.parametrize("optimizer", [ADAMW, MOMENTUM, MUON], ids=["adamw", "sgd", "muon"])
def test_a_run_interrupted_at_any_step_ends_with_the_same_bits(
    build: Build, assert_same: Same, optimizer: dict[str, Any], checkpoint_every: int | None
) -> None:
    options = {"optimizer": optimizer, "checkpoint_every": checkpoint_every}
    whole = build("whole", **options)
    whole.run()
    for at in range(1, TOTAL + 1):
        name = f"stopped-{at}"
        with pytest.raises(KeyboardInterrupt):
            build(name, stop=build.Stop(at), **options).run()
        rest = build(name, **options)
        every = checkpoint_every or STEPS
        # The step at which it stopped is lost: it was stopped before its checkpoint.
        assert rest.step == max((at - 1) // every * every, (at - 1) // STEPS * STEPS)
        rest.run()
        assert rest.step == TOTAL
        assert_same(rest.state_dict(), whole.state_dict(), name)
        assert rest.history == whole.history
        assert history_file(rest) == history_file(whole)
        shutil.rmtree(rest.folder.path)


def test_a_run_interrupted_at_every_step_in_turn(build: Build, assert_same: Same) -> None:
    whole = build("whole", checkpoint_every=1)
    whole.run()
    for at in range(2, TOTAL + 1):
        loop = build("stopped", checkpoint_every=1)
        assert loop.step == at - 2
        loop.progress = build.Stop(at)
        with pytest.raises(KeyboardInterrupt):
            loop.run()
    rest = build("stopped", checkpoint_every=1)
    rest.run()
    assert_same(rest.state_dict(), whole.state_dict())
    assert history_file(rest) == history_file(whole)


class DiesInCommit(RunFolder):
    """Stops between the history and the checkpoint of commit number ``at``."""

    at = 0

    def write_history(self, history: list[Row]) -> None:
        super().write_history(history)
        self.at -= 1
        if self.at == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", range(1, TOTAL + 1))
def test_rows_after_the_checkpoint_are_written_again(
    build: Build, assert_same: Same, tmp_path: Path, at: int
) -> None:
    whole = build("whole", checkpoint_every=1, log_every=1)
    whole.run()
    folder = DiesInCommit(tmp_path / "stopped")
    folder.at = at
    with pytest.raises(KeyboardInterrupt):
        build("stopped", folder=folder, checkpoint_every=1, log_every=1).run()
    assert len(folder.history()) == at  # a row more than the checkpoint knows
    rest = build("stopped", checkpoint_every=1, log_every=1)
    assert len(rest.history) == at - 1
    rest.run()
    assert_same(rest.state_dict(), whole.state_dict())
    assert history_file(rest) == history_file(whole)


def test_rows_of_epochs_without_a_checkpoint_are_there_to_be_read_and_written_again(
    build: Build, assert_same: Same
) -> None:
    whole = build("whole")
    whole.run()
    options = {"checkpoint_seconds": 1000, "checkpoint_every": 3}
    with pytest.raises(KeyboardInterrupt):
        build("stopped", stop=build.Stop(6), **options).run()
    folder = RunFolder(whole.folder.path.parent / "stopped")
    assert [row["step"] for row in folder.history()] == [3, 4]  # epoch 1 of steps 1 to 4
    rest = build("stopped", **options)
    assert rest.step == 3
    assert [row["step"] for row in rest.history] == [3]
    rest.run()
    assert_same(rest.state_dict(), whole.state_dict())
    assert history_file(rest) == history_file(whole)


class Ticking:
    """A clock that goes on by ``tick`` seconds each time it is asked."""

    def __init__(self, tick: float) -> None:
        self.tick, self.now = tick, 0.0

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, [4, 8, 12, 16]), (2, [8, 16]), (3, [12, 16]), (9, [16])]
)
def test_at_an_epochs_end_only_a_checkpoint_that_is_old_enough_is_replaced(
    build: Build, monkeypatch: pytest.MonkeyPatch, seconds: float, expected: list[int]
) -> None:
    monkeypatch.setattr("bench.loop.time", Ticking(1.0))
    loop = build(epochs=4, checkpoint_seconds=seconds)
    steps: list[int] = []
    monkeypatch.setattr(loop.folder, "commit", lambda _, state: steps.append(state["step"]))
    loop.run()
    assert steps == expected


@pytest.mark.parametrize("leader", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_a_follower_goes_by_the_leaders_clock(build: Build, leader: bool, old: bool) -> None:
    class Follower(Team):
        def any(self, mine: bool) -> bool:
            return mine or leader

    loop = build(checkpoint_seconds=0 if old else 1000)
    loop.team = Follower(rank=1, size=2)
    assert loop._seconds_are_over() is leader


def test_an_unreadable_checkpoint_costs_time_alone(build: Build, assert_same: Same) -> None:
    whole = build("whole", checkpoint_every=3)
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        build("torn", checkpoint_every=3, stop=build.Stop(7)).run()
    path = whole.folder.path.parent / "torn" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="cannot be read"):
        rest = build("torn", checkpoint_every=3)
    assert rest.step == 4  # not 6
    rest.run()
    assert_same(rest.state_dict(), whole.state_dict())
    assert history_file(rest) == history_file(whole)


def test_a_run_stopped_after_its_last_checkpoint_has_nothing_left_to_do(
    build: Build, assert_same: Same
) -> None:
    whole = build()
    whole.run()
    again = build()
    again.run()
    assert_same(again.state_dict(), whole.state_dict())
    assert again.history == whole.history


def test_how_often_a_run_is_written_down_does_not_change_it(
    build: Build, assert_same: Same
) -> None:
    often = {"log_every": 1, "checkpoint_every": 1, "eval_batch_size": 3}
    rarely = {"log_every": 100, "checkpoint_seconds": 1000, "eval_batch_size": 100}
    runs = [ran(build("often", **often)), ran(build("rarely", **rarely))]
    states = [{**loop.state_dict(), "window": None} for loop in runs]
    assert_same(*states)
    last = [loop.history[-1] for loop in runs]
    for key in ("val/loss", "test/loss"):
        assert last[0][key] == pytest.approx(last[1][key], rel=1e-6)
    assert last[0]["val/accuracy"] == last[1]["val/accuracy"]


def test_the_clock_goes_on_and_the_checkpoint_holds_plain_things(build: Build) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(checkpoint_every=1, stop=build.Stop(5)).run()
    rest = build(checkpoint_every=1)
    before = dict(rest.clock.seconds)
    assert before["step"] > 0
    assert before["evaluation"] > 0
    assert before["compile"] == 0
    rest.run()
    for phase in ("data", "step", "evaluation", "checkpoint"):
        assert rest.clock.seconds[phase] > before[phase]
    # weights_only loading is what reads it: tensors, numbers, strings and containers.
    path = rest.folder.path / "checkpoint.pt"
    assert torch.load(path, weights_only=True)["step"] == TOTAL
