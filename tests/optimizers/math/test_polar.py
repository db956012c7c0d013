from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transfer_cases import FLOAT64, MATRICES, random_matrix, with_singular_values

from optimizers import reference
from optimizers.math.polar import POLAR_METHODS, newton_schulz, polar, polar_express_coefficients

# Amsel et al. 2025 (arXiv 2505.16932), Algorithm 1: the first rows of their table.
PUBLISHED = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
]


def polar_express(matrix: Tensor, steps: int) -> Tensor:
    """The published iteration on the singular values, from sigma / (1.01 ||sigma||)."""
    (a, b, c), *rest = polar_express_coefficients(steps)
    return reference.newton_schulz(matrix, [(a / 1.01, b / 1.01**3, c / 1.01**5), *rest])


@pytest.mark.parametrize("form", ["direct", "gram", "auto"])
@pytest.mark.parametrize("name", sorted(MATRICES))
@pytest.mark.parametrize("coefficients", [(3.4445, -4.7750, 2.0315), (1.875, -1.25, 0.375)])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_newton_schulz_is_a_polynomial_of_the_singular_values(
    name: str, coefficients: tuple[float, float, float], steps: int, form: str
) -> None:
    matrix = MATRICES[name]
    expected = reference.newton_schulz(matrix, [coefficients] * steps)
    actual = newton_schulz(matrix, steps, coefficients, form=form)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    batch = torch.stack([matrix, 3.0 * matrix]).unsqueeze(1)
    together = newton_schulz(batch, steps, coefficients, form=form)
    torch.testing.assert_close(together[1, 0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["direct", "gram"])
@pytest.mark.parametrize("name", sorted(MATRICES))
@pytest.mark.parametrize("steps", [1, 5, 8])
def test_polar_express_is_its_composition(name: str, steps: int, form: str) -> None:
    expected = polar_express(MATRICES[name], steps)
    actual = polar(MATRICES[name], "polar_express", steps, form)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_polar_express_coefficients_are_the_published_ones() -> None:
    for ours, theirs in zip(polar_express_coefficients(8, safety=1.0), PUBLISHED, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-8)
    safe = polar_express_coefficients(8)
    for (a, b, c), (x, y, z) in zip(safe[:-1], PUBLISHED[:-1], strict=True):
        assert (a, b, c) == pytest.approx((x / 1.01, y / 1.01**3, z / 1.01**5), rel=1e-8)
    assert safe[-1] == pytest.approx(PUBLISHED[-1], rel=1e-8)


@pytest.mark.parametrize("lower", [0.05, 0.3, 0.5390625, 0.9, 0.999])
def test_each_quintic_is_the_best_on_its_interval(lower: float) -> None:
    """Four alternating errors of one size on [lower, upper]: no odd quintic is nearer 1."""
    upper = 1.0
    for a, b, c in polar_express_coefficients(4, lower=lower, safety=1.0):
        x = np.linspace(lower, upper, 200_001)
        error = 1 - (a * x + b * x**3 + c * x**5)
        worst = np.abs(error).max()
        if worst > 1e-9:
            signs = [np.sign(value) for value in error if abs(value) > 0.9999 * worst]
            assert 1 + sum(p != q for p, q in itertools.pairwise(signs)) == 4
        lower, upper = 1 - worst, 1 + worst


@given(lower=st.floats(1e-6, 0.99), steps=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_polar_express_brings_the_interval_near_one(lower: float, steps: int) -> None:
    x = np.geomspace(lower, 1, 5000)
    before = 1 - lower
    for a, b, c in polar_express_coefficients(steps, lower=lower, safety=1.0):
        x = a * x + b * x**3 + c * x**5
        worst = np.abs(1 - x).max()
        assert worst <= before * (1 + 1e-9) + 1e-12
        before = worst


@pytest.mark.parametrize(("steps", "bound"), [(5, 0.16), (6, 0.006), (8, 1e-12)])
def test_polar_express_reaches_the_stated_distance(steps: int, bound: float) -> None:
    sigma = torch.logspace(0, -3, 60, dtype=FLOAT64)
    matrix = with_singular_values(60, 80, sigma / sigma.norm())
    kept = (sigma / sigma.norm() >= 1e-3).sum()
    found = torch.linalg.svdvals(polar_express(matrix, steps))
    actual = torch.linalg.svdvals(polar(matrix, "polar_express", steps))
    torch.testing.assert_close(actual, found, rtol=1e-9, atol=1e-9)
    nearest = (1 - actual).abs().sort().values[:kept]
    assert nearest.max() <= bound


@pytest.mark.parametrize("name", sorted(MATRICES))
def test_svd_is_the_polar_factor_of_what_is_not_zero(name: str) -> None:
    matrix = MATRICES[name]
    factor = polar(matrix, "svd")
    expected = reference.polar_factor(matrix)
    torch.testing.assert_close(factor, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(polar(factor, "svd"), factor)


@pytest.mark.parametrize("method", POLAR_METHODS)
def test_dtype_shape_zero_and_empty_are_kept(method: str) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32, FLOAT64):
        result = polar(random_matrix(2, 3, 4, 20).to(dtype), method)
        assert result.dtype == dtype
        assert result.shape == (2, 3, 4, 20)
        assert result.isfinite().all()
        assert (polar(torch.zeros(2, 4, 6, dtype=dtype), method) == 0).all()
    assert polar(torch.zeros(0, 3), method).shape == (0, 3)


@pytest.mark.parametrize("method", ["newton_schulz", "polar_express"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("rank", [40, 5])
def test_both_forms_are_stable_in_low_precision(
    method: str, dtype: torch.dtype, decay: float, rank: int
) -> None:
    """Small sigma are multiplied by a at each step, and their rounding errors too: 3.4^5 = 480."""
    sigma = torch.arange(1, rank + 1, dtype=FLOAT64) ** -decay
    matrix = with_singular_values(40, 200, sigma)
    exact = polar(matrix, method, 8, "direct")
    for form in ("direct", "gram"):
        rounded = polar(matrix.to(dtype), method, 8, form).double()
        assert torch.linalg.matrix_norm(rounded, 2) < 1.3
        kept = with_singular_values(40, 200, (sigma > 0.05).double())
        error = (rounded - exact) @ kept.T  # on the directions that rounding does not reach
        assert error.norm() / exact.norm() < max(60 * torch.finfo(dtype).eps, 1e-3)


def test_gram_form_costs_what_it_states() -> None:
    m, n = 16, 80
    matrix = random_matrix(m, n)
    gram = 8 * m * m * n + 28 * m**3
    for form, dtype, expected in (
        ("direct", torch.float32, 5 * (4 * m * m * n + 2 * m**3)),
        ("gram", torch.float32, gram),
        ("auto", torch.float32, gram),
        ("gram", torch.float16, gram),
        ("gram", torch.bfloat16, 12 * m * m * n + 22 * m**3),
    ):
        with FlopCounterMode(display=False) as counter:
            newton_schulz(matrix, 5, form=form, precision=dtype)
        assert counter.get_total_flops() == expected
    with FlopCounterMode(display=False) as counter:
        newton_schulz(matrix[:, :20], 5, form="auto")
    assert counter.get_total_flops() == 5 * (4 * m * m * 20 + 2 * m**3)


@pytest.mark.parametrize("shape", [(16, 16), (24, 10), (10, 24)])
def test_newton_schulz_in_bfloat16_is_torchs(shape: tuple[int, int]) -> None:
    from torch.optim._muon import _zeropower_via_newtonschulz

    matrix = random_matrix(*shape).bfloat16()
    theirs = _zeropower_via_newtonschulz(matrix.clone(), (3.4445, -4.7750, 2.0315), 5, 1e-7)
    torch.testing.assert_close(newton_schulz(matrix), theirs, rtol=1e-6, atol=1e-6)
    asked = newton_schulz(matrix.float(), precision=torch.bfloat16)
    assert asked.dtype == torch.float32
    torch.testing.assert_close(asked, theirs.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: newton_schulz(m, steps=0), "steps"),
        (lambda m: newton_schulz(m, coefficients=(1.0, 2.0)), "coefficients"),
        (lambda m: newton_schulz(m, form="best"), "form must be one of auto, direct, gram"),
        (lambda m: polar(m, "qr"), "method must be one of newton_schulz, polar_express, svd"),
        (lambda m: polar(m, "polar_express", steps=0), "steps"),
        (lambda m: polar_express_coefficients(3, lower=1.0), r"lower must be in \(0, 1\)"),
    ],
)
def test_bad_arguments_are_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu() -> None:
    batch = random_matrix(3, 24, 80)
    for method, form in itertools.product(("newton_schulz", "polar_express"), ("direct", "gram")):
        exact = polar(batch, method, 5, form)
        low = polar(batch.cuda().float(), method, 5, form)
        assert low.dtype == torch.float32
        torch.testing.assert_close(low.cpu().double(), exact, rtol=0.05, atol=0.05)
        high = polar(batch.cuda(), method, 5, form)
        torch.testing.assert_close(high.cpu(), exact, rtol=1e-9, atol=1e-9)
