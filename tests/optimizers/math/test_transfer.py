from __future__ import annotations

import itertools
import math

import pytest
import torch
from transfer_cases import FLOAT64, MATRICES, random_matrix

from optimizers import reference
from optimizers.math.methods import METHODS, NORMALIZATIONS, Plan
from optimizers.math.transfer import (
    _tensor_float,
    as_matrix,
    shape_scale,
    spectral_transfer,
    transfer_amplitude,
    transfer_plan,
    with_frobenius_norm,
)
from optimizers.reference import transfer

EXACT = ("auto", "eigh", "svd")


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("name", sorted(MATRICES))
def test_transfer_is_the_definition_by_svd(name: str, normalize: str, method: str) -> None:
    matrix = MATRICES[name]
    for alpha, damping in itertools.product([0.5, 1.0, 2.0, 3.0], [0.1, 0.01]):
        expected = transfer(matrix, alpha, damping, normalize)
        actual = spectral_transfer(matrix, alpha, damping, normalize, method)
        error = (actual - expected).abs().max() / expected.abs().max().clamp(min=1e-200)
        # A Gram matrix costs rounding times sigma_1^alpha / damping, and below alpha = 2 the
        # square root of a rounded zero eigenvalue, 1e-8.
        assert error < (1e-11 if method == "svd" else 1e-10 if alpha >= 2 else 2e-7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_a_batch_is_its_matrices_one_by_one(normalize: str, method: str) -> None:
    if normalize == "none" and method in ("polynomial", "rational"):
        pytest.skip("refused")
    batch = random_matrix(2, 3, 4, 7) * random_matrix(2, 3, 1, 1, seed=5).exp()
    alpha = 2.0 if method == "cholesky" else 1.5
    together = spectral_transfer(batch, alpha, 0.05, normalize, method)
    for i in range(2):
        for j in range(3):
            alone = spectral_transfer(batch[i, j], alpha, 0.05, normalize, method)
            torch.testing.assert_close(together[i, j], alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, FLOAT64])
@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_low_precision_loses_only_the_rounding_of_input_and_output(
    dtype: torch.dtype, method: str, normalize: str
) -> None:
    for matrix in (random_matrix(6, 40), MATRICES["ill-conditioned"], MATRICES["zero"]):
        rounded = matrix.to(dtype)
        actual = spectral_transfer(rounded, 2.0, 0.01, normalize, method)
        assert actual.dtype == dtype
        expected = transfer(rounded, 2.0, 0.01, normalize).to(dtype)
        torch.testing.assert_close(actual, expected, rtol=torch.finfo(dtype).eps, atol=1e-9)


@pytest.mark.parametrize("precision", [None, torch.float32])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_float32_extremes_stay_finite(
    normalize: str, method: str, precision: torch.dtype | None
) -> None:
    if normalize == "none" and method in ("polynomial", "rational"):
        pytest.skip("refused")
    extremes = torch.finfo(torch.float32)
    for size in (extremes.max, extremes.tiny, extremes.smallest_normal * 1e-6):
        matrix = random_matrix(4, 5).sign().float() * size
        moved = spectral_transfer(matrix, 2.0, 0.05, normalize, method, precision=precision)
        assert moved.isfinite().all()
        assert transfer_amplitude(matrix, 2.0, 0.01, normalize).isfinite().all()
        assert with_frobenius_norm(matrix, 2.0).norm().item() == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_non_finite_matrix_gives_nan_and_leaves_its_batch_alone(method: str, bad: float) -> None:
    batch = random_matrix(2, 3, 4)
    clean = spectral_transfer(batch[1], 2.0, 0.1, "spectral", method)
    batch[0, 1, 2] = bad
    result = spectral_transfer(batch, 2.0, 0.1, "spectral", method)
    assert result[0].isnan().all()
    torch.testing.assert_close(result[1], clean)
    assert with_frobenius_norm(batch, 1.0).isnan().flatten(1).all(1).tolist() == [True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha must be > 0"),
        ({"alpha": -1}, "alpha must be > 0"),
        ({"damping": 0}, "damping must be > 0"),
        ({"damping": math.nan}, "damping must be a finite number"),
        (
            {"normalize": "max"},
            "normalize must be one of none, frobenius, rms, spectral, schatten8",
        ),
        (
            {"method": "magic"},
            "method must be one of auto, eigh, svd, cholesky, polynomial, rational",
        ),
        ({"method": "cholesky", "alpha": 1.5}, "'cholesky' needs alpha = 2, got 1.5"),
        ({"method": "rational", "alpha": 2.5}, "alpha must be <= 2 for real poles"),
        ({"method": "polynomial", "normalize": "none"}, "needs sigma <= 1"),
        ({"method": "polynomial", "damping": 1e-4}, "in float64 reaches error .* use 'eigh'"),
        ({"tolerance": 0.0}, "tolerance must be > 0"),
        ({"matrix": torch.ones(3)}, "expected a real matrix"),
        ({"matrix": torch.ones(3, 3, dtype=torch.int64)}, "expected a real matrix"),
        ({"matrix": torch.ones(3, 3, dtype=torch.complex64)}, "expected a real matrix"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, object], message: str) -> None:
    good = {"matrix": torch.ones(2, 2), "alpha": 2.0, "damping": 0.1}
    with pytest.raises(ValueError, match=message):
        spectral_transfer(**{**good, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2, 2.0, 4.0])
@pytest.mark.parametrize("size", [0.05, 1.0, 30.0])
def test_amplitude_is_the_largest_value_of_the_transfer(
    alpha: float, size: float, normalize: str
) -> None:
    damping = 0.2
    matrix = random_matrix(4, 6) * size
    expected = reference.amplitude(matrix, alpha, damping, normalize).item()
    amplitude = transfer_amplitude(matrix, alpha, damping, normalize)
    assert amplitude.shape == (1, 1)
    # Never too small; 0.1 % too large at most, as sigma_1 is.
    assert expected * (1 - 1e-6) <= amplitude.item() <= expected * (1 + 1.1e-3)
    if normalize == "spectral":
        assert amplitude.item() == pytest.approx(expected, rel=1e-6)


def test_amplitude_of_zero_can_be_divided_by() -> None:
    for normalize in NORMALIZATIONS:
        amplitude = transfer_amplitude(torch.zeros(2, 3, 4), 2.0, 0.1, normalize)
        assert (amplitude > 0).all()
        assert amplitude.isfinite().all()


def test_with_frobenius_norm_keeps_the_direction() -> None:
    batch = random_matrix(3, 4, 5)
    batch[1] = 0
    scaled = with_frobenius_norm(batch, 2.5)
    torch.testing.assert_close(scaled[0], batch[0] * (2.5 / batch[0].norm()))
    assert (scaled[1] == 0).all()
    assert scaled[2].norm().item() == pytest.approx(2.5)


def test_as_matrix_takes_rows_from_the_output_dimension() -> None:
    weight = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    assert as_matrix(weight).shape == (2, 12)
    assert as_matrix(weight)[1, 5] == weight[1, 1, 0, 1]
    last = weight.contiguous(memory_format=torch.channels_last)
    assert torch.equal(as_matrix(last), as_matrix(weight))
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        as_matrix(torch.ones(3))


def test_shape_scale_rules() -> None:
    assert shape_scale(8, 2, "original") == 2.0
    assert shape_scale(2, 8, "original") == 1.0
    assert shape_scale(2, 100, "match_rms_adamw") == pytest.approx(2.0)
    assert shape_scale(100, 2, "match_rms_adamw") == pytest.approx(2.0)
    with pytest.raises(ValueError, match="scale must be one of original, match_rms_adamw"):
        shape_scale(2, 2, "none")


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 4)])
def test_empty_matrices_pass_through(shape: tuple[int, ...]) -> None:
    empty = torch.zeros(*shape)
    assert spectral_transfer(empty, 2.0, 0.1).shape == shape
    assert with_frobenius_norm(empty, 1.0).shape == shape


def test_what_auto_takes_on_the_cpu() -> None:
    matrix = random_matrix(4, 6).float()
    assert transfer_plan(matrix, 2.0, 0.1) == "eigh"  # sigma_1 is needed exactly
    assert transfer_plan(matrix, 1.5, 0.1, "frobenius") == "eigh"
    assert transfer_plan(matrix, 2.0, 0.1, "none") == "eigh"
    for normalize in ("frobenius", "rms", "schatten8"):
        plan = transfer_plan(matrix, 2.0, 1e-4, normalize)
        assert isinstance(plan, Plan)
        assert (plan.method, plan.precision) == ("cholesky", FLOAT64)
        assert plan.error < 1e-9


def test_a_precision_asks_auto_for_the_fast_methods() -> None:
    plan = transfer_plan(random_matrix(8, 9), 1.0, 0.01, precision=torch.float32)
    assert isinstance(plan, Plan)
    assert (plan.method, plan.precision) == ("rational", torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_takes_raw_sigma_and_float64_exactly() -> None:
    batch = random_matrix(3, 24, 40)
    for alpha, normalize in itertools.product([1.0, 2.0], ["none", "spectral"]):
        expected = torch.stack([transfer(m, alpha, 0.01, normalize) for m in batch])
        exact = spectral_transfer(batch.cuda(), alpha, 0.01, normalize).cpu()
        torch.testing.assert_close(exact, expected, rtol=1e-9, atol=1e-7)
    raw = spectral_transfer(batch.cuda().float(), 2.0, 0.01, "none").cpu()
    wanted = torch.stack([transfer(m, 2.0, 0.01, "none") for m in batch])
    torch.testing.assert_close(raw.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("alpha", "normalize", "method"),
    [(2.0, "schatten8", "auto"), (1.0, "spectral", "rational"), (3.0, "frobenius", "polynomial")],
)
def test_it_is_traced_whole_with_fits_made_on_the_host(
    alpha: float, normalize: str, method: str
) -> None:
    matrix = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0))

    def traced(matrix: torch.Tensor) -> torch.Tensor:
        return spectral_transfer(matrix, alpha, 0.1, normalize, method)

    compiled = torch.compile(traced, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(matrix), traced(matrix))


@pytest.mark.parametrize(("setting", "expected"), [("ieee", 1.0), ("tf32", 2.0)])
def test_whether_cuda_rounds_to_tf32_is_known_while_traced(setting: str, expected: float) -> None:
    """It decides the plan on CUDA; torch.compile cannot ask for the setting itself."""

    def probe(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if _tensor_float() else x

    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = setting
    try:
        compiled = torch.compile(probe, backend="eager", fullgraph=True)
        assert compiled(torch.ones(())) == expected
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
