"""The damped inverse of a Kronecker factor."""

from __future__ import annotations

import math

import pytest
import torch

from optimizers.kfac import damped_inverse


@pytest.mark.parametrize("damping", [1e-6, 1e-2, 10.0])
def test_the_damped_inverse(damping: float) -> None:
    root = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    matrix = root @ root.T
    expected = torch.linalg.inv(matrix + damping * torch.eye(6).double())
    torch.testing.assert_close(damped_inverse(matrix, damping), expected)
    assert damped_inverse(matrix.fill_(math.nan), damping).isnan().all()


def test_an_indefinite_matrix_counts_its_negative_eigenvalues_as_zero() -> None:
    basis = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double())[
        0
    ]
    values = torch.tensor([3.0, 1.0, 0.0, -0.5]).double()
    found = damped_inverse((basis * values) @ basis.T, 0.1)
    torch.testing.assert_close(found, (basis / (values.clamp(min=0) + 0.1)) @ basis.T)
