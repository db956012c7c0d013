"""The losses of a window."""

from __future__ import annotations

import pytest
import torch

from bench.training.loss_window import LossWindow

CPU = torch.device("cpu")


def test_losses_are_copied_when_they_are_added() -> None:
    window = LossWindow(3, CPU)
    static = torch.tensor(0.5)  # overwritten by every step, as in a graph
    for value in (0.5, 0.25, 0.125):
        static.fill_(value)
        window.add(static)
    static.fill_(9.0)
    assert window.take() == [0.5, 0.25, 0.125]
    assert len(window) == 0
    assert window.take() == []


def test_a_window_grows() -> None:
    window = LossWindow(1, CPU)
    for value in range(5):
        window.add(torch.tensor(float(value)))
    assert window.take() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_values_are_a_copy_that_can_be_loaded() -> None:
    window, other = LossWindow(4, CPU), LossWindow(1, CPU)
    other.add(torch.tensor(7.0))
    for value in (1.5, 2.5):
        window.add(torch.tensor(value))
    values = window.values()
    window.take()
    window.add(torch.tensor(8.0))
    assert values.tolist() == [1.5, 2.5]
    other.load(values)
    other.add(torch.tensor(3.5))
    assert other.take() == [1.5, 2.5, 3.5]


def test_half_precision_losses_and_none() -> None:
    window = LossWindow(2, CPU)
    assert window.values().shape == (0,)
    window.add(torch.tensor(0.5, dtype=torch.bfloat16))
    assert window.values().dtype == torch.float32
    window.add(torch.tensor(float("nan")))
    assert window.take() == [0.5, pytest.approx(float("nan"), nan_ok=True)]
