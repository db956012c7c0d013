"""How many samples fit: what autograd keeps is counted, and divides the memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from analysis import memory
from analysis.objective import Objective, Settings


def test_saved_bytes_of_a_linear_chain() -> None:
    """Each Linear keeps its input, the ReLU its output, which is the next one's input."""
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    assert memory.saved_bytes(model, torch.randn(1, 10)) == 4 * (10 + 20)
    assert memory.saved_bytes(model, torch.randn(3, 10)) == 3 * 4 * (10 + 20)


def test_samples_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(10, 2)
    monkeypatch.setattr(memory, "_CPU_BUDGET", 4000)
    assert memory.samples_that_fit(model, torch.randn(1, 10), copies=1) == 100
    assert memory.samples_that_fit(model, torch.randn(1, 10), copies=5) == 20
    assert memory.samples_that_fit(nn.Identity(), torch.randn(1, 10), copies=4) == 1000
    monkeypatch.setattr(memory, "_CPU_BUDGET", 3)
    assert memory.samples_that_fit(model, torch.randn(1, 10), copies=1) == 1


@pytest.mark.parametrize(
    ("budget", "size", "passes"), [(4000, 10, 5), (240, 1, 50), (10**6, 50, 1)]
)
def test_automatic_passes_are_of_equal_size(
    monkeypatch: pytest.MonkeyPatch, budget: int, size: int, passes: int
) -> None:
    """40 bytes a sample, 8 times: 12 fit in 4000, so 50 samples take 5 passes of 10."""
    monkeypatch.setattr(memory, "_CPU_BUDGET", budget)
    batch = torch.randn(50, 10), torch.randint(0, 2, (50,))
    how = Settings(microbatch="auto")
    loss = nn.functional.cross_entropy
    objective = Objective(nn.Linear(10, 2), loss, batch, [""], how, copies=8)
    assert (objective.microbatch, objective.microbatches) == (size, passes)


def test_batch_norm_in_train_mode_is_never_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CPU_BUDGET", 100)
    model = nn.Sequential(nn.Linear(10, 2), nn.BatchNorm1d(2))
    batch = torch.randn(50, 10), torch.randint(0, 2, (50,))
    how = Settings(microbatch="auto", mode="train")
    objective = Objective(model, nn.functional.cross_entropy, batch, ["0"], how)
    assert objective.microbatch == 50
