import math

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.hessian.lanczos import SpectralNorm, lanczos, run_together


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
