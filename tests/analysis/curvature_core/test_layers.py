"""The factor of the softmax curvature, also where probabilities are all but one-hot."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from analysis.curvature_core import layers


def curvature(logits: Tensor) -> Tensor:
    p = logits.double().softmax(1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


@given(seed=st.integers(0, 99), classes=st.integers(1, 9), spread=st.sampled_from([0.1, 3, 40]))
@settings(max_examples=30, deadline=None)
def test_factor_gives_the_hessian(seed: int, classes: int, spread: float) -> None:
    torch.manual_seed(seed)
    logits = spread * torch.randn(4, classes, dtype=torch.float64)
    columns = layers.factor(logits)
    assert columns.shape == (classes - 1, 4, classes)
    product = torch.einsum("cbi,cbj->bij", columns, columns)
    torch.testing.assert_close(product, curvature(logits), atol=1e-15, rtol=1e-12)


def test_factor_keeps_digits_of_certain_samples() -> None:
    """p = 1 - 1e-13 or so: 1 - p has three digits, the factor has all."""
    logits = torch.tensor([[0.0, -30.0, -31.0]], dtype=torch.float64)
    columns = layers.factor(logits)
    small = torch.exp(logits[0, 1:] - torch.logsumexp(logits[0], 0))
    found = torch.einsum("cbi,cbj->bij", columns, columns)[0]
    torch.testing.assert_close(found[0, 0], small.sum() * (1 - small.sum()), atol=0, rtol=1e-12)
    torch.testing.assert_close(found[1, 1], small[0] * (1 - small[0]), atol=0, rtol=1e-12)


def test_factor_of_impossible_classes_is_finite() -> None:
    logits = torch.tensor([[0.0, -1e4, -2e4], [-1e4, 0.0, -1e4], [-1e4, -1e4, 0.0]])
    columns = layers.factor(logits)
    assert columns.dtype == torch.float32
    assert columns.isfinite().all()
    assert (columns == 0).all()


def test_quadratic_is_the_variance_of_the_move() -> None:
    torch.manual_seed(0)
    logits, moves = torch.randn(5, 2, 4).double(), torch.randn(5, 2, 4)
    a = curvature(logits.flatten(0, 1))
    r = moves.double().flatten(0, 1)
    expected = torch.einsum("bi,bij,bj->", r, a, r)
    found = layers.quadratic(logits, moves)
    torch.testing.assert_close(found, expected)
    shifted = layers.quadratic(logits, moves + 7)  # a constant move changes nothing
    torch.testing.assert_close(shifted, expected, rtol=1e-6, atol=0)


def test_cross_entropy_is_told_from_others() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5), torch.randint(0, 5, (4,))
    assert layers.is_cross_entropy(F.cross_entropy, logits, labels)
    positions = torch.randn(4, 3, 5), torch.randint(0, 5, (4, 3))
    assert layers.is_cross_entropy(
        lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten()), *positions
    )
    assert not layers.is_cross_entropy(F.nll_loss, logits, labels)  # linear: no curvature at all
    assert not layers.is_cross_entropy(
        lambda out, y: 1.0001 * F.cross_entropy(out, y), logits, labels
    )
