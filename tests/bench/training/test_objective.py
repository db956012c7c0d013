"""Cross-entropy with the classes last, against sums by hand in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.training.objective import cross_entropy, loss_and_hits

SHAPES = [(6,), (4, 3)]  # images: a target a sample; tokens: one a position


def example(shape: tuple[int, ...], classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, classes, generator=stream, dtype=torch.float64)
    return logits, torch.randint(0, classes, shape, generator=stream)


def by_hand(logits: Tensor, targets: Tensor, smoothing: float) -> list[float]:
    """One loss a target, row by row."""
    classes = logits.shape[-1]
    losses = []
    for row, target in zip(logits.reshape(-1, classes), targets.flatten().tolist(), strict=True):
        log_p = row - row.exp().sum().log()
        wanted = torch.full((classes,), smoothing / classes, dtype=torch.float64)
        wanted[target] += 1 - smoothing
        losses.append(-float((wanted * log_p).sum()))
    return losses


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_mean_over_all_targets(shape: tuple[int, ...], smoothing: float) -> None:
    logits, targets = example(shape)
    losses = by_hand(logits, targets, smoothing)
    found = cross_entropy(logits, targets, smoothing)
    assert found.shape == ()
    assert float(found) == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_no_smoothing_by_default() -> None:
    logits, targets = example((6,))
    assert float(cross_entropy(logits, targets)) == float(cross_entropy(logits, targets, 0.0))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_sum_and_the_right_answers(shape: tuple[int, ...]) -> None:
    logits, targets = example(shape, seed=3)
    losses, hits = loss_and_hits(logits, targets)
    assert losses.dtype == torch.float32
    assert float(losses) == pytest.approx(sum(by_hand(logits, targets, 0.0)), rel=1e-6)
    assert int(hits) == int((logits.argmax(-1) == targets).sum())
    logits.scatter_(-1, targets[..., None], 100.0)
    assert int(loss_and_hits(logits, targets)[1]) == targets.numel()


def test_evaluation_in_half_precision_sums_in_float32() -> None:
    logits = torch.zeros(1000, 4, dtype=torch.bfloat16)
    losses, _ = loss_and_hits(logits, torch.zeros(1000, dtype=torch.int64))
    assert float(losses) == pytest.approx(1000 * torch.tensor(4.0).log().item(), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 5), length=st.integers(1, 5), seed=st.integers(0, 99))
def test_tokens_are_samples_side_by_side(batch: int, length: int, seed: int) -> None:
    logits, targets = example((batch, length), seed=seed)
    flat = cross_entropy(logits.reshape(batch * length, -1), targets.flatten(), 0.1)
    assert torch.equal(cross_entropy(logits, targets, 0.1), flat)


@pytest.mark.parametrize(
    ("logits", "targets"), [((4, 3), (3,)), ((4, 3, 5), (4, 5)), ((4,), (4,)), ((4, 3), (4, 3))]
)
def test_shapes_that_do_not_belong_together(
    logits: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"classes must be the last dimension"):
        cross_entropy(torch.zeros(logits), torch.zeros(targets, dtype=torch.int64))
