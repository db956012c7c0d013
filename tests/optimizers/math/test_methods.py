from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

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

FLOAT16, BFLOAT16, FLOAT32, FLOAT64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
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
    transfer = Transfer(2.0, 0.01, "frobenius")
    plain = make_plan("polynomial", transfer, 64, 0.01, (FLOAT32, FLOAT64))
    rounded = make_plan("polynomial", transfer, 64, 0.01, (FLOAT32, FLOAT64), tf32=True)
    assert (plain.precision, rounded.precision) == (FLOAT32, FLOAT64)
    solve = make_plan("cholesky", transfer, 64, 0.01, (FLOAT32, FLOAT64), tf32=True)
    assert solve.precision == FLOAT64  # -5e-4 - 0.01 is no safe distance from singular


def test_solves_in_float32_only_where_no_factor_can_be_indefinite() -> None:
    transfer = Transfer(0.5, 0.01, "frobenius")
    plan = make_plan("rational", transfer, 4096, 0.01, (FLOAT32, FLOAT64))
    assert isinstance(plan.fit, RationalFit)
    assert plan.precision == FLOAT64
    assert min(plan.fit.poles) < 2 * math.sqrt(4096) * unit_roundoff(FLOAT32)
    small = make_plan("rational", transfer, 4, 0.03, (FLOAT32, FLOAT64))
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
