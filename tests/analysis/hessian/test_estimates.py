"""Estimated block norms against those of the dense Hessian, and how often their intervals hold."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_transformers import images, tiny_vit
from torch import Tensor

from analysis.hessian.estimates import (
    estimated_norms,
    frobenius_norms,
    norm_of,
    spectral_norms,
)
from analysis.hessian.groups import Group, by_parameter, by_role
from analysis.hessian.norms import exact_norms, pairs
from analysis.hessian.products import HessianProducts, dense_hessian
from analysis.objective import Settings, cross_entropy


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
