from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transfer_cases import FLOAT64, random_matrix

from optimizers.math.fits import polynomial_fit, rational_fit
from optimizers.math.gram import (
    damped_solve,
    evaluate_chebyshev,
    evaluate_rational,
    paterson_stockmeyer,
    schatten8_bound,
    spectral_bound,
    spectral_squarings,
    square_bound,
)

PRODUCTS = {4: 2, 6: 3, 9: 4, 12: 5, 16: 6, 20: 7, 25: 8, 30: 9, 36: 10, 49: 12, 64: 14}


def with_eigenvalues(x: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A Gram matrix for each row of eigenvalues ``x``, and the eigenvectors."""
    basis = torch.linalg.qr(random_matrix(*x.shape, x.shape[-1], seed=seed)).Q
    return basis @ (x.unsqueeze(-1) * basis.mT), basis


def unit_eigenvalues(count: int, size: int) -> Tensor:
    x = torch.rand(count, size, generator=torch.Generator().manual_seed(3), dtype=FLOAT64)
    x[:, 0] = 0
    x[:, -1] = 1
    return x


@pytest.mark.parametrize("with_square", [False, True])
def test_every_degree_is_the_series_of_the_eigenvalues(with_square: bool) -> None:
    x = unit_eigenvalues(2, 7)
    gram, basis = with_eigenvalues(x)
    square = gram @ gram if with_square else None
    for degree in range(66):
        coefficients = random_matrix(2, degree + 1, seed=degree)
        values = [
            chebyshev.chebval(2 * x[i].numpy() - 1, c.numpy()) for i, c in enumerate(coefficients)
        ]
        expected = basis @ (torch.tensor(np.stack(values)).unsqueeze(-1) * basis.mT)
        actual = evaluate_chebyshev(gram, coefficients, square)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12 * (degree + 1) ** 2)


def test_one_function_for_the_whole_batch_and_one_for_each_matrix() -> None:
    gram, _ = with_eigenvalues(unit_eigenvalues(4, 6))
    fits = [polynomial_fit(alpha, 0.1, 16).coefficients for alpha in (0.5, 1.0, 2.0, 5.0)]
    each = torch.tensor(fits, dtype=FLOAT64)
    together = evaluate_chebyshev(gram, each)
    for i in range(4):
        alone = evaluate_chebyshev(gram[i : i + 1], each[i])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-13, atol=1e-13)
        shared = evaluate_chebyshev(gram, each[i])
        torch.testing.assert_close(shared[i], together[i], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("degree", "products"), PRODUCTS.items())
def test_products_are_as_few_as_stated(degree: int, products: int) -> None:
    size = 8
    gram, _ = with_eigenvalues(unit_eigenvalues(3, size))
    for square, saved in ((None, 0), (gram @ gram, 1)):
        with FlopCounterMode(display=False) as counter:
            evaluate_chebyshev(gram, random_matrix(3, degree + 1), square)
        assert counter.get_total_flops() == (products - saved) * 3 * 2 * size**3


@given(degree=st.integers(1, 100))
def test_the_split_of_a_degree_covers_it_with_the_fewest_products(degree: int) -> None:
    baby, giant = paterson_stockmeyer(degree)
    assert baby * giant >= degree
    best = min(s + math.ceil(degree / s) for s in range(1, degree + 1))
    assert baby + giant == best


@pytest.mark.parametrize("degree", [9, 25])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_off_by_a_few_roundings(dtype: torch.dtype, degree: int) -> None:
    x = unit_eigenvalues(3, 48) ** 4
    gram, _ = with_eigenvalues(x)
    coefficients = torch.tensor(polynomial_fit(2.0, 0.03, degree).coefficients, dtype=FLOAT64)
    exact = evaluate_chebyshev(gram.to(dtype).to(FLOAT64), coefficients)
    actual = evaluate_chebyshev(gram.to(dtype), coefficients.float())
    assert actual.dtype == dtype
    error = torch.linalg.matrix_norm(actual.to(FLOAT64) - exact, 2).max().item()
    assert error < 20 * torch.finfo(dtype).eps


def test_coefficients_are_not_rounded_to_half_precision() -> None:
    """A sum that is 0.0012, or 0.001 if its terms were rounded first."""
    gram = torch.zeros(1, 4, 4, dtype=torch.float16)
    coefficients = torch.tensor([1.0003, 0.9991])
    value = float(chebyshev.chebval(-1.0, coefficients.double().numpy()))
    actual = evaluate_chebyshev(gram, coefficients)
    torch.testing.assert_close(actual[0], (value * torch.eye(4)).half(), rtol=1e-3, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_compiles_without_a_break(dtype: torch.dtype) -> None:
    gram = with_eigenvalues(unit_eigenvalues(2, 16))[0].to(dtype)
    coefficients = torch.tensor(polynomial_fit(2.0, 0.1, 9).coefficients)
    compiled = torch.compile(evaluate_chebyshev, fullgraph=True)
    expected = evaluate_chebyshev(gram, coefficients)
    torch.testing.assert_close(compiled(gram, coefficients), expected, rtol=0.02, atol=1e-2)


def true_norms(matrix: Tensor) -> tuple[Tensor, Tensor]:
    sigma = torch.linalg.svdvals(matrix.to(FLOAT64))
    return sigma[..., 0], sigma.pow(8).sum(-1).pow(1 / 8)


@given(
    rows=st.integers(1, 24),
    cols=st.integers(1, 30),
    seed=st.integers(0, 999),
    decay=st.floats(0, 3),
    dtype=st.sampled_from([FLOAT64, torch.float32, torch.float16, torch.bfloat16]),
)
@settings(max_examples=60, deadline=None)
def test_bounds_lie_between_sigma_1_and_what_they_state(
    rows: int, cols: int, seed: int, decay: float, dtype: torch.dtype
) -> None:
    matrix = random_matrix(2, rows, cols, seed=seed)
    matrix *= torch.arange(1, rows + 1, dtype=FLOAT64).unsqueeze(1) ** -decay
    matrix *= rows**0.25 / torch.linalg.matrix_norm(matrix, keepdim=True)
    matrix = matrix.to(dtype)
    largest, schatten = true_norms(matrix)
    gram = matrix @ matrix.mT
    half = dtype in (torch.float16, torch.bfloat16)
    rounding = (2 if half else 30) * torch.finfo(dtype).eps
    bound = schatten8_bound(gram)
    assert bound.shape == (2, 1, 1)
    torch.testing.assert_close(bound.flatten().double(), schatten, rtol=rounding, atol=0)
    assert torch.equal(bound, square_bound(gram @ gram))
    assert (bound.flatten() <= rows ** (1 / 8) * largest * (1 + rounding)).all()
    for squarings in (1, 3, 7):
        for square in (None, gram @ gram):
            tight = spectral_bound(gram, squarings, square).flatten().double()
            assert (tight >= largest * (1 - rounding)).all()
            slack = rows ** (0.5 ** (squarings + 2))
            assert (tight <= largest * slack * (1 + rounding)).all()


@pytest.mark.parametrize("size", [1, 2, 7, 64, 512, 4096])
@pytest.mark.parametrize("slack", [0.1, 0.01, 0.001])
def test_squarings_are_the_fewest_that_keep_the_slack(size: int, slack: float) -> None:
    squarings = spectral_squarings(size, slack)
    assert size ** (0.5 ** (squarings + 2)) <= 1 + slack
    assert squarings == 1 or size ** (0.5 ** (squarings + 1)) > 1 + slack


def test_bounds_of_equal_sigma_and_of_zero() -> None:
    gram = torch.stack((torch.eye(256), torch.zeros(256, 256)))
    assert schatten8_bound(gram).flatten().tolist() == pytest.approx([2.0, 0.0])
    assert spectral_bound(gram, 9).flatten().tolist() == pytest.approx([256 ** (1 / 2048), 0.0])


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_rational_is_its_sum_over_the_eigenvalues(dtype: torch.dtype) -> None:
    x = unit_eigenvalues(3, 9)
    gram, basis = with_eigenvalues(x)
    c0 = torch.tensor([0.3, 0.0, -0.2], dtype=dtype)
    weights = torch.tensor([[0.5, 1.0], [2.0, 0.0], [0.1, 0.2]], dtype=dtype)
    poles = torch.tensor([[0.1, 2.0], [0.03, 1.0], [0.5, 0.01]], dtype=dtype)
    values = c0[:, None] + (weights[:, None] / (x[..., None] + poles[:, None])).sum(-1)
    expected = basis @ (values.to(FLOAT64).unsqueeze(-1) * basis.mT)
    actual = evaluate_rational(gram.to(dtype), c0, weights, poles)
    tolerance = 1e-3 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(actual.to(FLOAT64), expected, rtol=0, atol=tolerance)
    for i in range(3):
        alone = evaluate_rational(gram[i : i + 1].to(dtype), c0[i], weights[i], poles[i])
        torch.testing.assert_close(alone[0], actual[i], rtol=1e-3, atol=tolerance)


def test_damped_solve_is_a_linear_solve() -> None:
    gram, _ = with_eigenvalues(unit_eigenvalues(2, 6))
    damping = torch.tensor([0.2, 1e-6], dtype=FLOAT64).reshape(2, 1, 1)
    matrix = random_matrix(2, 6, 11)
    solved = damped_solve(gram, damping, matrix)
    torch.testing.assert_close((gram + damping * torch.eye(6)) @ solved, matrix)


def test_zero_gram_gives_the_value_at_zero() -> None:
    gram = torch.zeros(1, 3, 3)
    fit = polynomial_fit(2.0, 0.1, 9)
    at_zero = chebyshev.chebval(-1.0, np.asarray(fit.coefficients))
    factor = evaluate_chebyshev(gram, torch.tensor(fit.coefficients))
    torch.testing.assert_close(factor[0], at_zero * torch.eye(3))
    one = evaluate_rational(gram, torch.tensor(0.0), torch.tensor([1.0]), torch.tensor([0.1]))
    torch.testing.assert_close(one[0], 10 * torch.eye(3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("size", [32, 600])
def test_cuda_graphs_hold_everything_without_a_host_sync(size: int) -> None:
    gram = with_eigenvalues(unit_eigenvalues(3, size))[0].cuda().float()
    half, matrix = gram.half(), random_matrix(3, size, size + 5).cuda().float()
    fit, poles = polynomial_fit(2.0, 0.1, 9), rational_fit(1.0, 0.1, 0.01)
    coefficients = torch.tensor(fit.coefficients, device="cuda")
    numbers = [torch.tensor(v, device="cuda") for v in poles[:3]]
    damping = torch.full((3, 1, 1), 0.1, device="cuda")

    def everything() -> list[Tensor]:
        return [
            evaluate_chebyshev(half, coefficients),
            evaluate_chebyshev(half, coefficients, half @ half),
            schatten8_bound(half),
            spectral_bound(half, 8),
            evaluate_rational(gram, *numbers),
            damped_solve(gram, damping, matrix),
        ]

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected = everything()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        everything()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = everything()
    graph.replay()
    for actual, wanted in zip(captured, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-3)
