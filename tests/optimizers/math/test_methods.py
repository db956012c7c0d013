"""The ways to compute the transfer: which one is taken, and that each keeps to its stated error."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transfer_cases import FLOAT64, MATRICES, random_matrix, with_singular_values

from optimizers.math.fits import CHEAP_DEGREES, PolynomialFit, RationalFit, polynomial_fit
from optimizers.math.methods import (
    NORMALIZATIONS,
    Plan,
    Transfer,
    automatic_plan,
    available_precisions,
    make_plan,
    transfer_by_gram,
    transfer_flops,
    unit_roundoff,
)
from optimizers.math.transfer import spectral_transfer, transfer_plan
from optimizers.reference import transfer

FLOAT16, BFLOAT16, FLOAT32 = torch.float16, torch.bfloat16, torch.float32
GPU = (FLOAT16, FLOAT32, FLOAT64)
CUDA, CPU, MPS = torch.device("cuda"), torch.device("cpu"), torch.device("mps")


def degree(plan: Plan | None) -> int:
    assert plan is not None
    assert isinstance(plan.fit, PolynomialFit)
    return len(plan.fit.coefficients) - 1


@pytest.mark.parametrize(
    ("normalize", "lowest"), [("frobenius", 9), ("schatten8", 9), ("spectral", 12)]
)
def test_the_papers_damping_is_served_in_half_precision(normalize: str, lowest: int) -> None:
    plan = automatic_plan(Transfer(2.0, 0.1, normalize), 512, 0.01, GPU)
    assert plan is not None
    assert (plan.method, plan.precision, degree(plan)) == ("polynomial", FLOAT16, lowest)
    assert plan.error <= 0.01
    assert (plan.squarings > 0) == (normalize == "spectral")


@pytest.mark.parametrize(
    ("alpha", "damping", "method", "precision"),
    [
        (2.0, 0.03, "polynomial", FLOAT32),  # rounding in half precision would reach 1 %
        (2.0, 0.01, "polynomial", FLOAT32),
        (2.0, 1e-4, "cholesky", FLOAT32),
        (1.0, 0.1, "polynomial", FLOAT32),
        (1.0, 0.001, "rational", FLOAT64),
        (0.5, 0.1, "polynomial", FLOAT32),
        (0.5, 1e-4, "rational", FLOAT64),
        (4.0, 1e-4, "polynomial", FLOAT32),
    ],
)
def test_what_auto_takes_on_a_gpu(
    alpha: float, damping: float, method: str, precision: torch.dtype
) -> None:
    plan = automatic_plan(Transfer(alpha, damping, "schatten8"), 256, 0.01, GPU)
    assert plan is not None
    assert (plan.method, plan.precision) == (method, precision)
    assert plan.error <= 0.01


def test_auto_falls_back_to_eigh() -> None:
    assert automatic_plan(Transfer(1.0, 0.1, "none"), 8, 0.01, GPU) is None
    assert automatic_plan(Transfer(2.0, 0.1, "none"), 8, 0.01, (FLOAT32,)) is None
    # Above alpha = 2 there are no real poles, and here no polynomial.
    assert automatic_plan(Transfer(2.3, 1e-4, "spectral"), 8, 0.01, GPU) is None
    assert automatic_plan(Transfer(1.0, 0.1, "spectral"), 8, 1e-14, GPU) is None


def test_raw_sigma_takes_an_exact_solve_where_there_is_one() -> None:
    plan = automatic_plan(Transfer(2.0, 0.1, "none"), 8, 0.01, GPU)
    assert plan is not None
    assert (plan.method, plan.precision) == ("cholesky", FLOAT64)


def test_tensor_float_is_counted_as_half_precision() -> None:
    wanted = Transfer(2.0, 0.01, "frobenius")
    plain = make_plan("polynomial", wanted, 64, 0.01, (FLOAT32, FLOAT64))
    rounded = make_plan("polynomial", wanted, 64, 0.01, (FLOAT32, FLOAT64), tf32=True)
    assert (plain.precision, rounded.precision) == (FLOAT32, FLOAT64)
    solve = make_plan("cholesky", wanted, 64, 0.01, (FLOAT32, FLOAT64), tf32=True)
    assert solve.precision == FLOAT64  # -5e-4 - 0.01 is no safe distance from singular


def test_solves_in_float32_only_where_no_factor_can_be_indefinite() -> None:
    wanted = Transfer(0.5, 0.01, "frobenius")
    plan = make_plan("rational", wanted, 4096, 0.01, (FLOAT32, FLOAT64))
    assert isinstance(plan.fit, RationalFit)
    assert plan.precision == FLOAT64
    assert min(plan.fit.poles) < 2 * math.sqrt(4096) * unit_roundoff(FLOAT32)
    small = make_plan("rational", wanted, 4, 0.03, (FLOAT32, FLOAT64))
    assert small.precision == FLOAT32


@given(
    method=st.sampled_from(["polynomial", "rational", "cholesky"]),
    alpha=st.sampled_from([0.5, 1.0, 1.7, 2.0, 3.0, 5.0]),
    damping=st.sampled_from([1.0, 0.1, 0.01, 1e-3, 1e-4]),
    normalize=st.sampled_from(NORMALIZATIONS[1:]),
    size=st.sampled_from([1, 7, 64]),
    tolerance=st.sampled_from([0.3, 0.03, 0.01]),
    precisions=st.sampled_from([GPU, (FLOAT64,), (BFLOAT16,), (FLOAT32, FLOAT64)]),
)
@settings(max_examples=60, deadline=None)
def test_a_plan_keeps_its_promise_or_is_refused(
    method: str,
    alpha: float,
    damping: float,
    normalize: str,
    size: int,
    tolerance: float,
    precisions: tuple[torch.dtype, ...],
) -> None:
    try:
        plan = make_plan(method, Transfer(alpha, damping, normalize), size, tolerance, precisions)
    except ValueError as refusal:
        text = str(refusal)
        assert "reaches error" in text or "alpha" in text
        return
    unit = unit_roundoff(plan.precision)
    assert plan.fit.error + unit * plan.fit.sensitivity < plan.error <= tolerance
    assert plan.precision in precisions
    assert plan.limit == (math.sqrt(size) if normalize == "rms" else 1.0)
    if isinstance(plan.fit, PolynomialFit):
        cheaper = [d for d in CHEAP_DEGREES if d < degree(plan)]
        inner = damping / plan.limit**alpha
        for fit in (polynomial_fit(alpha, inner, d) for d in cheaper[-1:]):
            spent = plan.error - plan.fit.error - unit * plan.fit.sensitivity
            assert fit.error + unit * fit.sensitivity + spent > tolerance


def test_raw_sigma_is_for_cholesky_alone() -> None:
    plan = make_plan("cholesky", Transfer(2.0, 0.1, "none"), 8, 0.01, (FLOAT64,))
    assert plan.error == math.inf
    for method in ("polynomial", "rational"):
        with pytest.raises(ValueError, match="needs sigma <= 1: choose a normalize other than"):
            make_plan(method, Transfer(2.0, 0.1, "none"), 8, 0.01, (FLOAT64,))


def test_a_refusal_tells_what_could_be_reached() -> None:
    with pytest.raises(
        ValueError,
        match=r"'polynomial' in bfloat16 reaches error 0\.\d+ at best, not tolerance 0.01",
    ):
        make_plan("polynomial", Transfer(2.0, 0.1, "schatten8"), 8, 0.01, (BFLOAT16,))


@pytest.mark.parametrize(
    ("method", "device", "dtype", "expected"),
    [
        ("polynomial", CUDA, FLOAT32, (FLOAT16, FLOAT32, FLOAT64)),
        ("auto", CUDA, BFLOAT16, (FLOAT16, FLOAT32, FLOAT64)),
        ("rational", CUDA, FLOAT32, (FLOAT32, FLOAT64)),
        ("cholesky", CUDA, FLOAT16, (FLOAT32, FLOAT64)),
        ("polynomial", CUDA, FLOAT64, (FLOAT64,)),
        ("polynomial", MPS, FLOAT32, (FLOAT16, FLOAT32)),
        ("cholesky", MPS, FLOAT32, (FLOAT32,)),
        ("polynomial", CPU, BFLOAT16, (FLOAT64,)),
    ],
)
def test_precisions_by_device(
    method: str, device: torch.device, dtype: torch.dtype, expected: tuple[torch.dtype, ...]
) -> None:
    assert available_precisions(method, device, dtype) == expected


def test_roundoff_of_each_precision() -> None:
    assert unit_roundoff(FLOAT16) == 2.0**-11
    assert unit_roundoff(BFLOAT16) == 2.0**-8
    assert unit_roundoff(FLOAT32) == 2.0**-21
    assert unit_roundoff(FLOAT32, tf32=True) == 2.0**-11
    assert unit_roundoff(FLOAT64, tf32=True) == 2.0**-50


@pytest.mark.parametrize("damping", [0.3, 0.1, 0.03])
@pytest.mark.parametrize("normalize", ["frobenius", "schatten8", "spectral"])
def test_flops_of_the_polynomial_are_what_runs(normalize: str, damping: float) -> None:
    m, n = 12, 40
    plan = make_plan("polynomial", Transfer(2.0, damping, normalize), m, 0.02, (FLOAT32,))
    matrix = torch.randn(1, m, n, generator=torch.Generator().manual_seed(0))
    matrix = matrix / matrix.abs().amax()
    with FlopCounterMode(display=False) as counter:
        transfer_by_gram(matrix, torch.ones(1, 1, 1), plan)
    stated = transfer_flops("polynomial", m, n, degree=degree(plan), squarings=plan.squarings)
    assert counter.get_total_flops() == stated
    swapped = transfer_flops("polynomial", n, m, degree=degree(plan), squarings=plan.squarings)
    assert swapped == stated


def test_flops_in_proportion() -> None:
    m, n = 512, 4608
    muon = 5 * (4.0 * m * m * n + 2.0 * m**3)
    at_01 = transfer_flops("polynomial", m, n, degree=9)
    assert at_01 == 4.0 * m * m * n + 8.0 * m**3
    assert at_01 < 0.3 * muon
    assert transfer_flops("polynomial", m, n, degree=25) < 0.36 * muon
    assert transfer_flops("cholesky", m, n) == pytest.approx(4.0 * m * m * n + m**3 / 3)
    assert transfer_flops("rational", m, n, poles=3) == pytest.approx(4.0 * m * m * n + 10 * m**3)
    assert transfer_flops("eigh", m, n) < transfer_flops("svd", m, n)
    extra = transfer_flops("cholesky", m, n, squarings=3) - transfer_flops("cholesky", m, n)
    assert extra == 6.0 * m**3
    with pytest.raises(ValueError, match="method must be one of eigh, svd"):
        transfer_flops("auto", m, n)


# -- the error that is stated ----------------------------------------------------------------------

FAST = ("cholesky", "polynomial", "rational")


def peak(alpha: float, damping: float, limit: float) -> float:
    sigma = np.concatenate((np.logspace(-8, 0, 4001), np.linspace(0, 1, 4001))) * limit
    return float((sigma / (sigma**alpha + damping)).max())


def check_error(
    matrix: Tensor, plan_for: dict[str, object], precision: torch.dtype | None = None
) -> bool:
    """Whether the method serves these arguments; if it does, its error must be within its bound."""
    alpha, damping, normalize = (plan_for[k] for k in ("alpha", "damping", "normalize"))
    arguments = {**plan_for, "precision": precision}
    try:
        plan = transfer_plan(matrix, **arguments)  # type: ignore[arg-type]
    except ValueError as refusal:
        assert "reaches error" in str(refusal)
        return False
    assert isinstance(plan, Plan)
    assert plan.error <= plan_for["tolerance"]  # type: ignore[operator]
    actual = spectral_transfer(matrix, **arguments).to(FLOAT64)  # type: ignore[arg-type]
    assert actual.isfinite().all()
    expected = transfer(matrix, alpha, damping, normalize).numpy()  # type: ignore[arg-type]
    error = np.linalg.norm(actual.numpy() - expected, 2)
    # bfloat16 and float16 results are rounded once more, on their way out.
    out = torch.finfo(matrix.dtype).eps * np.linalg.norm(expected, 2)
    assert error <= plan.error * peak(alpha, damping, plan.limit) * (1 + 1e-6) + out  # type: ignore[arg-type]
    return True


@pytest.mark.parametrize("dtype", [FLOAT64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", FAST)
@pytest.mark.parametrize("normalize", ["frobenius", "rms", "spectral", "schatten8"])
@pytest.mark.parametrize("name", sorted(MATRICES))
def test_fast_methods_keep_to_their_bound(
    name: str, normalize: str, method: str, dtype: torch.dtype
) -> None:
    if name in ("huge", "tiny") and dtype != FLOAT64:
        pytest.skip("beyond the range of this dtype")
    cases = [(2.0, 0.1, 0.01), (2.0, 0.01, 0.01), (1.0, 0.1, 0.01), (1.0, 1.0, 1e-3)]
    cases += [(3.0, 0.01, 0.03), (0.5, 0.1, 0.03), (5.0, 1e-3, 0.1)]
    if normalize == "rms":  # whose fits depend on the short side
        cases = [(2.0, 1.0, 0.01), (1.0, 1.0, 0.03), (2.0, 0.3, 0.03)]
    served = 0
    for alpha, damping, tolerance in cases:
        if (method == "cholesky" and alpha != 2) or (method == "rational" and alpha > 2):
            continue
        served += check_error(
            MATRICES[name].to(dtype),
            {
                "alpha": alpha,
                "damping": damping,
                "normalize": normalize,
                "method": method,
                "tolerance": tolerance,
            },
        )
    assert served >= 2


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [(torch.float32, 0.01), (torch.float16, 0.03), (torch.bfloat16, 0.15)],
)
@pytest.mark.parametrize("normalize", ["frobenius", "spectral", "schatten8"])
@pytest.mark.parametrize("name", sorted(MATRICES))
def test_products_in_low_precision_keep_to_their_bound(
    name: str, normalize: str, precision: torch.dtype, tolerance: float
) -> None:
    matrix = MATRICES[name]
    for alpha, damping in ((2.0, 0.1), (2.0, 0.05), (1.0, 0.3), (3.0, 0.2)):
        arguments: dict[str, object] = {"alpha": alpha, "damping": damping}
        arguments |= {"normalize": normalize, "tolerance": tolerance}
        assert check_error(matrix, {**arguments, "method": "polynomial"}, precision)
        if precision == torch.float32 and alpha <= 2:
            assert check_error(matrix, {**arguments, "method": "rational"}, precision)


def transfer_case(draw: st.DrawFn) -> tuple[Tensor, dict[str, object]]:
    """A matrix of random shape and spectrum, and arguments for a fast method."""
    rows, cols = draw(st.integers(1, 16)), draw(st.integers(1, 20))
    seed, decay = draw(st.integers(0, 10_000)), draw(st.floats(0, 8))
    rank = draw(st.integers(0, min(rows, cols)))
    sigma = np.logspace(0, -decay, rank) if rank else np.zeros(1)
    size = 10.0 ** draw(st.integers(-6, 6))
    matrix = with_singular_values(rows, cols, sigma * size, seed)
    method = draw(st.sampled_from(FAST))
    # To two digits: the fits are cached, and 1,000 cases need not be 1,000 fits.
    below_two = st.floats(0.5, 2.0) if method == "rational" else st.floats(0.5, 5.0)
    alpha = 2.0 if method == "cholesky" else round(draw(below_two), 1)
    damping = float(f"{10.0 ** (draw(st.integers(-8, 0)) / 2):.2g}")
    normalize = draw(st.sampled_from(["frobenius", "rms", "spectral", "schatten8"]))
    if normalize == "rms" and method != "cholesky":  # its fit depends on the short side
        rows = cols = 4
        matrix = with_singular_values(rows, cols, np.logspace(0, -decay, 4) * size, seed)
    tolerance = draw(st.sampled_from([0.2, 0.05, 0.01]))
    arguments = {"alpha": alpha, "damping": damping, "normalize": normalize}
    return matrix, {**arguments, "method": method, "tolerance": tolerance}


@given(case=st.composite(transfer_case)())
@settings(max_examples=60, deadline=None)
def test_any_case_keeps_to_its_bound(case: tuple[Tensor, dict[str, object]]) -> None:
    check_error(*case)


def test_raw_cholesky_takes_any_size_of_sigma() -> None:
    for size in (1e-200, 1e-3, 1.0, 30.0):
        matrix = random_matrix(5, 9) * size
        for damping in (1e-4, 1.0):
            expected = transfer(matrix, 2.0, damping, "none").numpy()
            actual = spectral_transfer(matrix, 2.0, damping, "none", "cholesky").numpy()
            np.testing.assert_allclose(actual, expected, atol=1e-7 * np.abs(expected).max())
    single = torch.zeros(4, 6, dtype=FLOAT64)  # its Gram matrix is singular beyond rounding
    single[1, 2] = 1e150
    moved = spectral_transfer(single, 2.0, 0.01, "none", "cholesky")
    torch.testing.assert_close(moved * 1e150, single / 1e150)
    singular = MATRICES["rank one"] * 1e150
    assert spectral_transfer(singular, 2.0, 0.01, "none", "cholesky").isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("normalize", ["frobenius", "rms", "spectral", "schatten8"])
def test_cuda_keeps_to_the_bound_of_its_plan(normalize: str) -> None:
    decay = torch.arange(1, 97, dtype=FLOAT64).unsqueeze(1) ** -1.0
    batch = torch.stack((random_matrix(96, 160), random_matrix(96, 160, seed=1) * decay))
    for alpha, damping in itertools.product([0.5, 1.0, 2.0, 3.0], [0.3, 0.1, 0.01, 1e-3]):
        matrix = batch.cuda().float()
        plan = transfer_plan(matrix, alpha, damping, normalize)
        bound = plan.error if isinstance(plan, Plan) else 1e-6
        limit = math.sqrt(96) if normalize == "rms" else 1.0
        assert bound <= 0.01
        moved = spectral_transfer(matrix, alpha, damping, normalize)
        assert moved.dtype == torch.float32
        for actual, original in zip(moved.cpu().double(), batch.float().double(), strict=True):
            expected = transfer(original, alpha, damping, normalize).numpy()
            error = np.linalg.norm(actual.numpy() - expected, 2)
            assert error <= bound * peak(alpha, damping, limit) + 1e-6 * np.linalg.norm(expected, 2)


@pytest.mark.parametrize(
    ("alpha", "damping", "slow"),
    [(2.05, 1e-3, True), (2.2, 1e-3, False), (2.2, 3e-4, True), (2.05, 2e-3, False)],
)
def test_where_nothing_but_eigh_is_left_above_two(alpha: float, damping: float, slow: bool) -> None:
    plan = transfer_plan(torch.ones(2, 2), alpha, damping, "schatten8", precision=torch.float32)
    assert (plan == "eigh") == slow
