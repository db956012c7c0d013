"""Estimated block norms against those of the dense Hessian, and how often their intervals hold."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_transformers import images, tiny_vit
from torch import Tensor

from analysis.curvature_core.blocks import (
    SpectralNorm,
    asymmetry,
    estimated_norms,
    exact_norms,
    frobenius_norms,
    lanczos,
    norm_of,
    pairs,
    run_together,
    spectral_norms,
)
from analysis.curvature_core.objective import Settings, cross_entropy
from analysis.curvature_core.products import (
    Group,
    HessianProducts,
    by_parameter,
    by_role,
    dense_hessian,
)


def norm(matrix: Tensor, steps: int, seed: int = 0) -> SpectralNorm:
    stream = torch.Generator().manual_seed(seed)
    start = torch.randn(len(matrix), generator=stream, dtype=matrix.dtype)
    return norms([matrix], steps, [start])[0]


def norms(matrices: list[Tensor], steps: int, starts: list[Tensor]) -> list[SpectralNorm]:
    runs = [lanczos(len(start), steps, start) for start in starts]
    return run_together(
        runs, lambda vectors: {number: matrices[number] @ v for number, v in vectors.items()}
    )


def with_spectrum(eigenvalues: list[float] | Tensor, seed: int = 0) -> Tensor:
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    stream = torch.Generator().manual_seed(seed)
    size = len(values)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=stream, dtype=torch.float64))
    return basis @ torch.diag(values) @ basis.T


@pytest.mark.parametrize("values", [[3.0, 1.0, -0.5, 0.1], [1.0, -4.0, 2.0], [2.0, 2.0, -2.0]])
def test_as_many_steps_as_dimensions_are_exact(values: list[float]) -> None:
    found = norm(with_spectrum(values), steps=9)
    expected = max(map(abs, values))
    assert found.estimate == pytest.approx(expected, rel=1e-12)
    assert found.high == found.estimate


def test_few_distinct_eigenvalues_need_as_few_steps() -> None:
    matrix = with_spectrum([5.0] + [0.0] * 60 + [-6.0])
    assert norm(matrix, steps=30) == pytest.approx((6.0, 6.0), rel=1e-10)
    assert norm(torch.zeros(5, 5, dtype=torch.float64), steps=3) == (0.0, 0.0)


@pytest.mark.parametrize("tail", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("steps", [14, 30])
def test_ends_hold_the_norm_as_often_as_stated(tail: float, steps: int) -> None:
    size, starts = 150, 100
    values = torch.arange(1, size + 1, dtype=torch.float64) ** -tail
    values[1::2] *= -1
    matrix = torch.diag(values)  # a start from the sphere: any basis will do
    found = [norm(matrix, steps, seed) for seed in range(starts)]
    assert all(low <= 1 + 1e-12 for low, _ in found)  # a sure lower end
    assert np.mean([high >= 1 - 1e-12 for _, high in found]) >= 0.95
    order = 2 * ((steps + 1) // 2) - 1
    error = (math.log(1.648 * math.sqrt(size) / 0.05) / order) ** 2
    low, high = found[0]
    assert high == pytest.approx(low / math.sqrt(1 - error))


def test_the_upper_end_is_needed_and_infinite_where_nothing_is_known() -> None:
    matrix = torch.diag(torch.linspace(0.9, 1, 3000, dtype=torch.float64))
    low, high = norm(matrix, steps=14)
    assert low < 0.9995 < 1 < high
    assert norm(matrix, steps=4).high == math.inf


def test_runs_of_different_length_go_on_together() -> None:
    matrices = [with_spectrum([2.0, -3.0]), with_spectrum(torch.linspace(-1, 4, 40))]
    starts = [torch.randn(len(m), dtype=torch.float64) for m in matrices]
    found = norms(matrices, 40, starts)
    assert [round(one.estimate, 9) for one in found] == [3.0, 4.0]


def test_float32_does_not_stop_early() -> None:
    matrix = with_spectrum(torch.linspace(0.0, 1.0, 400, dtype=torch.float64)).float()
    assert norm(matrix, steps=60).estimate == pytest.approx(1.0, abs=2e-4)


GROUPS = [
    Group("a.weight", "a", ((0, 3),)),
    Group("b.weight", "b", ((3, 4),)),
    Group("c.weight", "a", ((4, 8),)),
]


def symmetric(size: int = 8) -> torch.Tensor:
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn + drawn.T


def test_norms_of_every_block_are_numpys() -> None:
    hessian = symmetric()
    found = exact_norms(hessian, GROUPS, "parameter")
    assert list(zip(found["row"], found["col"], strict=True)) == [
        ("a.weight", "a.weight"), ("a.weight", "b.weight"), ("a.weight", "c.weight"),
        ("b.weight", "b.weight"), ("b.weight", "c.weight"), ("c.weight", "c.weight"),
    ]  # fmt: skip
    assert set(found["level"]) == {"parameter"} and set(found["method"]) == {"exact"}
    parts = {"a.weight": [0, 1, 2], "b.weight": [3], "c.weight": [4, 5, 6, 7]}
    for row in found.to_dict("records"):
        block = hessian.numpy()[np.ix_(parts[row["row"]], parts[row["col"]])]
        assert (row["row_size"], row["col_size"]) == block.shape
        singular = np.linalg.svd(block, compute_uv=False)
        assert row["mean_abs"] == pytest.approx(np.abs(block).mean(), rel=1e-12)
        assert row["frobenius"] == pytest.approx(np.sqrt((block**2).sum()), rel=1e-12)
        assert row["spectral"] == row["spectral_high"] == pytest.approx(singular[0], rel=1e-12)
        assert row["frobenius_per_entry"] == pytest.approx(np.sqrt((block**2).mean()), rel=1e-12)
        per_entry = singular[0] / np.sqrt(block.size)
        assert row["spectral_per_entry"] == pytest.approx(per_entry, rel=1e-12)
        assert row["frobenius_stderr"] == 0 and row["frobenius_low"] == row["frobenius_high"]


def test_a_role_of_several_spans_is_one_block() -> None:
    hessian = symmetric()
    found = exact_norms(hessian, by_role(GROUPS), "role").set_index(["row", "col"])
    a, b = [0, 1, 2, 4, 5, 6, 7], [3]
    assert found.loc[("a", "a"), "frobenius"] == pytest.approx(
        np.linalg.norm(hessian.numpy()[np.ix_(a, a)]), rel=1e-12
    )
    assert found.loc[("a", "b"), "spectral"] == pytest.approx(
        np.linalg.norm(hessian.numpy()[np.ix_(a, b)], 2), rel=1e-12
    )
    whole = found["frobenius"] ** 2 * [2 if row != col else 1 for row, col in found.index]
    assert whole.sum() == pytest.approx(float(hessian.square().sum()), rel=1e-12)


def test_asymmetry_is_found_wherever_it_is() -> None:
    hessian = symmetric(1500)
    assert asymmetry(hessian) == 0
    hessian[1400, 3] += 0.25
    largest = float(hessian.abs().max())
    assert asymmetry(hessian) == pytest.approx(0.25 / largest, rel=1e-12)


class Matrix:
    """Products of a given matrix, in the place of a network's Hessian."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.size = matrix, len(matrix)
        self.dtype, self.device, self.microbatches = matrix.dtype, matrix.device, 1

    def __call__(self, vectors: Tensor, tick: object = None) -> Tensor:
        return vectors @ self.matrix


@pytest.fixture(scope="module")
def products() -> HessianProducts:
    settings = Settings(dtype=torch.float64)
    return HessianProducts(tiny_vit(), cross_entropy, images(), settings)


@pytest.fixture(scope="module")
def groups(products: HessianProducts) -> list[Group]:
    wanted = ("query", "value", "norm", "bias")
    return [group for group in by_role(by_parameter(products.model)) if group.name in wanted]


@pytest.fixture(scope="module")
def hessian(products: HessianProducts) -> Tensor:
    return dense_hessian(products)


def test_estimates_of_a_network_are_near_its_dense_hessians_norms(
    products: HessianProducts, groups: list[Group], hessian: Tensor
) -> None:
    seen: list[tuple[int, int]] = []
    found = estimated_norms(
        products, groups, "role", probes=16, spectral="all", steps=120,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    exact = exact_norms(hessian, groups, "role")
    names = ["level", "row", "col", "row_role", "col_role", "row_size", "col_size"]
    pd.testing.assert_frame_equal(found[names], exact[names])
    assert list(found.columns) == list(exact.columns) and found["mean_abs"].isna().all()
    # All steps that the block has dimensions: exact, however it lies about the diagonal.
    assert found["spectral"].tolist() == pytest.approx(exact["spectral"].tolist(), rel=1e-8)
    inside = exact["frobenius"].between(found["frobenius_low"], found["frobenius_high"])
    assert inside.mean() > 0.8
    assert (abs(found["frobenius"] / exact["frobenius"] - 1) < 0.6).all()
    done, total = seen[-1]
    assert 16 * len(groups) < done <= total


@pytest.mark.slow
@pytest.mark.parametrize(("probes", "least"), [(16, 0.88), (64, 0.91)])
def test_frobenius_intervals_cover_as_stated(
    groups: list[Group], hessian: Tensor, probes: int, least: float
) -> None:
    exact = exact_norms(hessian, groups, "role").set_index(["row", "col"])["frobenius"]
    hits, repeats = dict.fromkeys(exact.index, 0), 60
    for seed in range(repeats):
        for block, norm in frobenius_norms(Matrix(hessian), groups, probes, seed).items():  # type: ignore[arg-type]
            hits[block] += norm.low <= exact[block] <= norm.high
    share = np.array(list(hits.values())) / repeats
    # One block's share of 60 has a standard error of 0.04, and the blocks share their probes.
    assert share.mean() >= least and share.min() >= least - 0.12
    assert share.mean() <= 0.985  # nor are they too wide


def test_a_block_of_one_direction_is_the_worst_case() -> None:
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(4000):
        norm = norm_of(rng.standard_normal(64) ** 2)
        hits.append(norm.low <= 1 <= norm.high)
    assert 0.925 < np.mean(hits) < 0.955


def test_standard_error_is_the_spread_of_estimates(groups: list[Group], hessian: Tensor) -> None:
    groups = [group for group in groups if group.name in ("query", "value")]
    block = ("query", "value")
    found = [frobenius_norms(Matrix(hessian), groups, 32, seed)[block] for seed in range(60)]  # type: ignore[arg-type]
    spread = np.std([norm.value for norm in found], ddof=1)
    assert np.mean([norm.stderr for norm in found]) == pytest.approx(spread, rel=0.25)
    assert norm_of(np.zeros(4)) == (0, 0, 0, 0)


def test_spectral_norms_are_bounded_from_both_sides(groups: list[Group], hessian: Tensor) -> None:
    blocks = pairs(groups)
    exact = exact_norms(hessian, groups, "role").set_index(["row", "col"])["spectral"]
    found = spectral_norms(Matrix(hessian), blocks, steps=14)  # type: ignore[arg-type]
    assert set(found) == {(row.name, col.name) for row, col in blocks}
    low = np.array([found[block].estimate / exact[block] for block in exact.index])
    high = np.array([found[block].high / exact[block] for block in exact.index])
    assert (low <= 1 + 1e-9).all() and (low > 0.6).all()
    assert (high >= 1 - 1e-9).mean() >= 0.95 and np.isfinite(high).any()


@pytest.mark.parametrize(("asked", "known"), [("none", 0), ("diagonal", 4), ("all", 10)])
def test_spectral_norms_are_of_the_blocks_asked_for(
    groups: list[Group], hessian: Tensor, asked: str, known: int
) -> None:
    found = estimated_norms(
        Matrix(hessian), groups, "role", probes=2, steps=2, spectral=asked  # type: ignore[arg-type]
    )  # fmt: skip
    there = found[found["spectral"].notna()]
    assert len(there) == known
    assert (there["row"] == there["col"]).all() or asked == "all"


def test_too_few_probes_are_refused(groups: list[Group], hessian: Tensor) -> None:
    with pytest.raises(ValueError, match="2 probes and 1 step at least, got 1 and 40"):
        estimated_norms(Matrix(hessian), groups, "role", probes=1)  # type: ignore[arg-type]
