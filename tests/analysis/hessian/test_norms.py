import numpy as np
import pytest
import torch

from analysis.hessian.groups import Group, by_role
from analysis.hessian.norms import asymmetry, exact_norms

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
