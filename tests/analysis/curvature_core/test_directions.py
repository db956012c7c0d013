"""Gradient matrices and their singular triplets against autograd and numpy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from half_used import Half
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from analysis.curvature_core.directions import (
    gradient_directions,
    gradient_norms,
    layer_gradients,
    top_directions,
)
from analysis.curvature_core.objective import Settings

DOUBLE = Settings(dtype=torch.float64)
LAYERS = ["0", "3"]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 5, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(5 * 16, 4)
    return nn.Sequential(*layers).double()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(30, 2, 4, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 4, (30,), generator=generator)


def test_gradients_are_those_of_backward(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    found = layer_gradients(model, F.cross_entropy, data, LAYERS, DOUBLE)
    F.cross_entropy(model(data[0]), data[1]).backward()
    assert found["0"].shape == (5, 18)
    assert found["3"].shape == (4, 80)
    torch.testing.assert_close(found["0"], model[0].weight.grad.reshape(5, -1))
    torch.testing.assert_close(found["3"], model[3].weight.grad)


def test_linear_gradient_by_hand(data: tuple[Tensor, Tensor]) -> None:
    """Softmax regression: G = mean (p - y) x^T."""
    head = nn.Sequential(nn.Linear(32, 4)).double()
    x, labels = data[0].flatten(1), data[1]
    found = layer_gradients(head, F.cross_entropy, (x, labels), ["0"], DOUBLE)["0"]
    error = head(x).softmax(dim=1) - F.one_hot(labels, 4)
    torch.testing.assert_close(found, (error.T @ x / 30).detach())


@pytest.mark.parametrize("microbatch", [1, 7, 30, 100])
def test_microbatches_change_nothing(
    model: nn.Module, data: tuple[Tensor, Tensor], microbatch: int
) -> None:
    whole = layer_gradients(model, F.cross_entropy, data, LAYERS, DOUBLE)
    parts = Settings(torch.float64, microbatch)
    for layer, gradient in layer_gradients(model, F.cross_entropy, data, LAYERS, parts).items():
        torch.testing.assert_close(gradient, whole[layer], atol=1e-15, rtol=1e-12)


@given(m=st.integers(1, 8), n=st.integers(1, 8), k=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_triplets_agree_with_numpy(m: int, n: int, k: int, seed: int) -> None:
    matrix = torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = top_directions(matrix, k)
    count = min(k, m, n)
    assert len(found) == count
    assert found.shape == (m, n)
    expected = np.linalg.svd(matrix.numpy(), compute_uv=False)[:count]
    np.testing.assert_allclose(found.sigma, expected, rtol=1e-10)
    product = found.left.T @ matrix @ found.right  # U^T G V = diag(sigma)
    torch.testing.assert_close(product, torch.diag(found.sigma), atol=1e-12, rtol=1e-10)
    for side in (found.left, found.right):
        torch.testing.assert_close(side.T @ side, torch.eye(count, dtype=torch.float64))


def test_signs_are_fixed() -> None:
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, negated = top_directions(matrix, 4), top_directions(-matrix, 4)
    peaks = found.left.gather(0, found.left.abs().argmax(dim=0, keepdim=True))
    assert (peaks > 0).all()
    torch.testing.assert_close(negated.left, found.left)
    torch.testing.assert_close(negated.right, -found.right)


def test_the_null_direction_of_a_softmax_head_is_zero(
    model: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    """Columns of a softmax head's gradient sum to zero: rank 3 of 4, in float32 nets too."""
    for network in (model, model.float()):
        found = gradient_directions(network, F.cross_entropy, data, ["3"], 20)["3"]
        assert (found.sigma[:3] > 1e-4).all()
        assert found.sigma[3] == 0
        assert len(found) == 4
        torch.testing.assert_close(found.left[:, 3].abs(), torch.full((4,), 0.5).double())


def test_small_but_real_singular_values_stay() -> None:
    sigma = torch.tensor([1.0, 1e-4, 1e-8, 2e-10, 5e-11, 1e-14], dtype=torch.float64)
    found = top_directions(torch.diag(sigma), 6).sigma
    torch.testing.assert_close(found[:4], sigma[:4], rtol=1e-9, atol=0)
    assert found[4:].tolist() == [0.0, 0.0]
    assert top_directions(torch.zeros(3, 2), 2).sigma.tolist() == [0.0, 0.0]


def made(sigma: Tensor, rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a matrix with these singular values, and its singular vectors [rows, k], [., k]."""
    draw = torch.Generator().manual_seed(seed)
    u, v = (
        torch.linalg.qr(torch.randn(side, len(sigma), generator=draw, dtype=torch.float64))[0]
        for side in (rows, columns)
    )
    return u * sigma @ v.mT, u, v


@given(
    rows=st.integers(20, 40), columns=st.integers(20, 40), k=st.integers(1, 20),
    decay=st.floats(0, 7), scale=st.sampled_from([1e-200, 1e-12, 1.0, 1e6]), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_ill_conditioned_gradients(
    rows: int, columns: int, k: int, decay: float, scale: float, seed: int
) -> None:
    """sigma_k to a relative 1e-11 of ratios down to 1e-4 by the Gram matrix, below by the SVD."""
    sigma = scale * torch.arange(1, 21, dtype=torch.float64) ** -decay
    matrix, u, v = made(sigma, rows, columns, seed)
    found = top_directions(matrix, k)
    ratio = float(sigma[k - 1] / sigma[0])
    assert ((found.sigma - sigma[:k]).abs() <= 1e-14 * sigma[0] + 1e-11 * sigma[:k]).all()
    one = torch.eye(k, dtype=torch.float64)
    for side, exact in ((found.left, u), (found.right, v)):
        torch.testing.assert_close(side.T @ side, one, atol=1e-12, rtol=0)
        if decay > 0.1:  # else the directions are arbitrary
            missed = torch.linalg.matrix_norm(side - exact[:, :k] @ (exact[:, :k].T @ side), 2)
            assert missed < (1e-7 if ratio > 1e-4 else 1e-15 / ratio * 1e3)


@pytest.mark.parametrize("ratio", [2e-4, 0.9e-4])
def test_singular_values_at_the_limit_of_the_gram_matrix(ratio: float) -> None:
    """The last two of 20 lie close together beneath a wide gap: the hardest case of each way."""
    sigma = torch.cat([torch.ones(18), torch.tensor([1.1 * ratio, ratio])]).double()
    matrix, u, _ = made(sigma, 30, 60, 0)
    found = top_directions(matrix, 20)
    torch.testing.assert_close(found.sigma, sigma, rtol=1e-11, atol=0)
    for k in (18, 19):
        assert abs(float(found.left[:, k] @ u[:, k])) > 1 - 1e-12


def test_directions_are_float64_and_repeatable(
    model: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    exact = gradient_directions(model, F.cross_entropy, data, LAYERS, 3, settings=DOUBLE)
    again = gradient_directions(model, F.cross_entropy, data, LAYERS, 3)  # float32 asked for h
    for layer in LAYERS:
        assert again[layer].sigma.dtype == torch.float64
        assert torch.equal(exact[layer].sigma, again[layer].sigma)
        assert torch.equal(exact[layer].left, again[layer].left)


def test_a_gradient_of_float32_is_taken_as_float64() -> None:
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(3))
    found, exact = top_directions(matrix, 6), torch.linalg.svdvals(matrix.double())
    assert found.left.dtype == found.right.dtype == torch.float64
    torch.testing.assert_close(found.sigma, exact, rtol=1e-12, atol=0)


def test_a_layer_that_the_loss_does_not_see_has_no_gradient() -> None:
    batch = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    found = gradient_directions(Half(), F.cross_entropy, batch, ["used", "unused"], 2)
    assert found["unused"].sigma.tolist() == [0.0, 0.0]
    assert (found["used"].sigma > 0).all()


def test_bad_requests_are_named(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="number of directions must be at least 1, got 0"):
        gradient_directions(model, F.cross_entropy, data, LAYERS, 0)
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="layer '0': the gradient is not finite"):
        gradient_directions(model, F.cross_entropy, data, LAYERS, 2)


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_norms_are_of_all_singular_values(shape: tuple[int, int], scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(*shape, generator=generator, dtype=torch.float64)
    sigma = torch.linalg.svdvals(matrix)
    found = top_directions(scale * matrix, 2)
    assert found.norm == pytest.approx(scale * float(sigma.norm()), rel=1e-12)
    assert found.schatten8 == pytest.approx(scale * float(sigma.norm(8)), rel=1e-12)
    assert gradient_norms(torch.zeros(shape)) == (0.0, 0.0)
