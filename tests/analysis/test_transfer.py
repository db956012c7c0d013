"""What is said of spectra against the optimizer itself, and against a derivative by differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import transfer
from optimizers.math.methods import NORMALIZATIONS
from optimizers.math.transfer import spectral_transfer

SIGMA = np.array([2.0, 0.7, 0.3, 0.05])


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_it_is_the_optimizers_own_transfer(normalize: str, alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    raw = torch.linalg.svdvals(matrix).numpy()
    scaled = transfer.normalised(
        raw, normalize, norm=float(np.linalg.norm(raw)),
        schatten8=float(np.sum(raw**8) ** (1 / 8)), size=5,
    )  # fmt: skip
    ours = np.sort(transfer.transferred(scaled, alpha, 0.05))
    theirs = torch.linalg.svdvals(spectral_transfer(matrix, alpha, 0.05, normalize, "svd"))
    assert ours == pytest.approx(np.sort(theirs.numpy()), rel=1e-9)


@given(st.floats(0.5, 3.0), st.floats(1e-4, 1.0))
@settings(max_examples=50, deadline=None)
def test_the_slope_is_the_derivative_and_falls_from_1(alpha: float, damping: float) -> None:
    step = 1e-6
    up, down = (transfer.transferred(SIGMA * np.exp(s), alpha, damping) for s in (step, -step))
    found = transfer.slope(SIGMA, alpha, damping)
    assert found == pytest.approx(np.log(up / down) / (2 * step), abs=1e-6)
    assert (np.diff(found) >= 0).all()  # sigma is descending
    assert ((1 - alpha <= found) & (found <= 1)).all()


def test_its_two_ends_are_sgd_and_muon() -> None:
    assert transfer.slope(SIGMA, 1.0, 1e9) == pytest.approx(np.ones(4))
    assert transfer.slope(SIGMA, 1.0, 1e-9) == pytest.approx(np.zeros(4), abs=1e-6)
    assert transfer.slope(SIGMA, 2.0, 1e-9) == pytest.approx(-np.ones(4), abs=1e-6)
    assert transfer.cosine(transfer.transferred(SIGMA, 1.0, 1e9), SIGMA) == pytest.approx(1)
    assert transfer.cosine(transfer.transferred(SIGMA, 1.0, 1e-9), np.ones(4)) == pytest.approx(1)


def test_what_is_not_known_is_nan_and_what_is_wrong_is_refused() -> None:
    nothing = {"norm": float("nan"), "schatten8": 0.0, "size": 4}
    assert np.isnan(transfer.normalised(SIGMA, "frobenius", **nothing)).all()
    assert np.isnan(transfer.normalised(SIGMA, "schatten8", **nothing)).all()
    assert transfer.normalised(SIGMA, "none", **nothing).tolist() == SIGMA.tolist()
    assert np.isnan(transfer.cosine(np.zeros(2), np.ones(2)))
    with pytest.raises(ValueError, match="unknown normalize 'max'; there are none, frobenius"):
        transfer.normalised(SIGMA, "max", **nothing)
