"""The summary is a pure function of history and clock.

The split clock.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from bench.data import synthetic_lm
from bench.data.tokens import TokenStream, entropies
from bench.training.summary import PHASES, Clock, entropy_summary, summarise

FINAL = ("train/loss", "val/loss", "val/accuracy", "test/loss", "test/accuracy")
BEST = ("best/epoch", "best/val_accuracy", "best/test_accuracy")
FRACTION = st.floats(0.0, 1.0)


def row(step: int, **values: float) -> dict[str, Any]:
    return {"step": step, "epoch": step / 10, **{k.replace("_", "/"): v for k, v in values.items()}}


def epoch_row(number: int, val: float, test: float) -> dict[str, Any]:
    return row(
        10 * number,
        train_loss=1.0 / number,
        val_loss=2.0 / number,
        val_accuracy=val,
        test_loss=3.0 / number,
        test_accuracy=test,
    )


def summary(history: list[dict[str, Any]], state: str = "done", **seconds: float) -> dict[str, Any]:
    clock = Clock()
    clock.load_state_dict(seconds)
    sizes = {"steps_per_epoch": 10, "batch_size": 32, "parameters": 1234}
    return summarise(state, history, clock, **sizes)  # type: ignore[arg-type]


def test_the_final_numbers_are_those_of_the_last_evaluation() -> None:
    history = [epoch_row(1, 0.9, 0.8), row(15, train_loss=7.0), epoch_row(2, 0.5, 0.4)]
    found = summary(history)
    assert {name: found[name] for name in FINAL} == {
        "train/loss": 0.5,
        "val/loss": 1.0,
        "val/accuracy": 0.5,
        "test/loss": 1.5,
        "test/accuracy": 0.4,
    }
    assert found["state"] == "done"
    assert (found["steps"], found["epochs"], found["parameters"]) == (20, 2.0, 1234)


def test_the_best_epoch_is_the_first_of_equals() -> None:
    history = [epoch_row(i, val, i / 10) for i, val in enumerate([0.5, 0.8, 0.7, 0.8, 0.1], 1)]
    found = summary(history)
    assert {name: found[name] for name in BEST} == {
        "best/epoch": 2.0,
        "best/val_accuracy": 0.8,
        "best/test_accuracy": 0.2,
    }


@settings(max_examples=50, deadline=None)
@given(
    val=st.lists(FRACTION, min_size=1, max_size=6),
    tests=st.lists(st.lists(FRACTION, min_size=6, max_size=6), min_size=2, max_size=2),
)
def test_the_test_split_never_chooses(val: list[float], tests: list[list[float]]) -> None:
    found = [summary([epoch_row(i + 1, v, test[i]) for i, v in enumerate(val)]) for test in tests]
    first = val.index(max(val))
    for one, test in zip(found, tests, strict=True):
        assert one["best/epoch"] == first + 1
        assert one["best/val_accuracy"] == max(val)
        assert one["best/test_accuracy"] == test[first]


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_diverged_run_has_no_accuracies(evaluated: bool) -> None:
    # Or a table would take its values before the divergence for a result.
    history = [epoch_row(1, 0.9, 0.8)] if evaluated else []
    found = summary([*history, row(13, train_loss=1e20)], state="diverged", step=1.0)
    assert found["state"] == "diverged"
    assert found["steps"] == 13
    assert not [name for name in found if "accuracy" in name or "loss" in name or "best" in name]


def test_a_run_that_diverged_at_once_still_has_a_summary() -> None:
    found = summary([], state="diverged")
    assert (found["steps"], found["epochs"]) == (0, 0.0)
    assert "seconds_per_epoch" not in found


def test_speed_counts_training_alone() -> None:
    seconds = {"data": 1.0, "step": 3.0, "evaluation": 50.0, "compile": 60.0, "checkpoint": 70.0}
    seconds |= {"curvature": 80.0, "step_evaluation": 90.0}
    found = summary([epoch_row(1, 0.5, 0.5), epoch_row(2, 0.5, 0.5)], **seconds)
    assert found["seconds_per_epoch"] == 2.0  # 4 s, 2 epochs
    assert found["samples_per_second"] == 20 * 32 / 4.0
    assert {phase: found[f"clock/{phase}_seconds"] for phase in PHASES} == seconds


def test_a_clock_at_zero_does_not_divide_by_zero() -> None:
    assert summary([epoch_row(1, 0.5, 0.5)])["samples_per_second"] > 0


def test_the_summary_is_flat_and_leaves_its_input_alone() -> None:
    history = [epoch_row(1, 0.5, 0.4), epoch_row(2, 0.6, 0.3)]
    before = copy.deepcopy(history)
    found = summary(history, step=1.0)
    assert history == before
    assert all(isinstance(value, int | float | str) for value in found.values())
    assert summary(history, step=1.0) == found


def test_the_loss_of_a_stream_has_entropies_beside_it() -> None:
    val = tensor([0, 1, 0, 1, 1, 0, 2])
    data = TokenStream("toy", 3, 2, tensor([0, 1, 2]), val, tensor([2, 1, 0]))
    found = entropies(val, 3)
    assert entropy_summary(data) == {
        "val/unigram_entropy": found.unigram,
        "val/bigram_entropy": found.bigram,
    }
    assert found.bigram < found.unigram
    table = synthetic_lm.load(Path(), 0, context_length=8, count=64, held_out=8, vocab_size=40)
    assert entropy_summary(table) == {}


def test_every_phase_begins_at_zero() -> None:
    assert PHASES == (
        "data", "step", "evaluation", "step_evaluation", "compile", "checkpoint", "curvature",
    )  # fmt: skip
    assert Clock().seconds == dict.fromkeys(PHASES, 0.0)


@pytest.mark.parametrize("phase", PHASES)
def test_a_block_counts_to_its_phase_alone(phase: str) -> None:
    clock = Clock()
    begin = time.perf_counter()
    with clock(phase):  # type: ignore[arg-type]
        time.sleep(0.01)
    whole = time.perf_counter() - begin
    assert 0.01 <= clock.seconds[phase] <= whole
    assert all(clock.seconds[other] == 0.0 for other in PHASES if other != phase)


def test_blocks_add_up() -> None:
    clock = Clock()
    for _ in range(3):
        with clock("step"):
            time.sleep(0.004)
    assert clock.seconds["step"] >= 0.012


def test_a_block_that_raises_counts_too() -> None:
    clock = Clock()
    with pytest.raises(KeyError), clock("data"):
        time.sleep(0.005)
        raise KeyError
    assert clock.seconds["data"] >= 0.005


def test_training_is_data_and_steps() -> None:
    clock = Clock()
    clock.load_state_dict(
        {"data": 1.0, "step": 2.0, "evaluation": 4.0, "compile": 8.0, "checkpoint": 16.0}
    )
    assert clock.training == 3.0


def test_a_restored_clock_goes_on_from_where_it_was() -> None:
    first = Clock()
    first.load_state_dict(dict.fromkeys(PHASES, 100.0))
    state = first.state_dict()
    second = Clock()
    second.load_state_dict(state)
    with second("evaluation"):
        time.sleep(0.002)
    assert second.seconds["evaluation"] > 100.0
    assert second.seconds["step"] == 100.0
    assert first.seconds == dict.fromkeys(PHASES, 100.0)


def test_a_saved_state_does_not_run_on_with_the_clock() -> None:
    clock = Clock()
    state = clock.state_dict()
    with clock("data"):
        time.sleep(0.001)
    assert state == dict.fromkeys(PHASES, 0.0)
