"""Spectra against the optimizer itself, and against a derivative by differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import map_runs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.page.spectra import (
    MATRICES,
    cosine,
    likeness,
    normalised,
    slope,
    spectra,
    transferred,
)
from analysis.run.measured import Measured, load
from analysis.runs import load_runs
from analysis.table.select import records
from optimizers.math.methods import NORMALIZATIONS
from optimizers.math.transfer import spectral_transfer
from optimizers.partition import HIDDEN_TYPES

SIGMA = np.array([2.0, 0.7, 0.3, 0.05])


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_it_is_the_optimizers_own_transfer(normalize: str, alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    raw = torch.linalg.svdvals(matrix).numpy()
    scaled = normalised(
        raw, normalize, norm=float(np.linalg.norm(raw)),
        schatten8=float(np.sum(raw**8) ** (1 / 8)), size=5,
    )  # fmt: skip
    ours = np.sort(transferred(scaled, alpha, 0.05))
    theirs = torch.linalg.svdvals(spectral_transfer(matrix, alpha, 0.05, normalize, "svd"))
    assert ours == pytest.approx(np.sort(theirs.numpy()), rel=1e-9)


@given(st.floats(0.5, 3.0), st.floats(1e-4, 1.0))
@settings(max_examples=50, deadline=None)
def test_the_slope_is_the_derivative_and_falls_from_1(alpha: float, damping: float) -> None:
    step = 1e-6
    up, down = (transferred(SIGMA * np.exp(s), alpha, damping) for s in (step, -step))
    found = slope(SIGMA, alpha, damping)
    assert found == pytest.approx(np.log(up / down) / (2 * step), abs=1e-6)
    assert (np.diff(found) >= 0).all()  # sigma is descending
    assert ((1 - alpha <= found) & (found <= 1)).all()


def test_its_two_ends_are_sgd_and_muon() -> None:
    assert slope(SIGMA, 1.0, 1e9) == pytest.approx(np.ones(4))
    assert slope(SIGMA, 1.0, 1e-9) == pytest.approx(np.zeros(4), abs=1e-6)
    assert slope(SIGMA, 2.0, 1e-9) == pytest.approx(-np.ones(4), abs=1e-6)
    assert cosine(transferred(SIGMA, 1.0, 1e9), SIGMA) == pytest.approx(1)
    assert cosine(transferred(SIGMA, 1.0, 1e-9), np.ones(4)) == pytest.approx(1)


def test_what_is_not_known_is_nan_and_what_is_wrong_is_refused() -> None:
    nothing = {"norm": float("nan"), "schatten8": 0.0, "size": 4}
    assert np.isnan(normalised(SIGMA, "frobenius", **nothing)).all()
    assert np.isnan(normalised(SIGMA, "schatten8", **nothing)).all()
    assert normalised(SIGMA, "none", **nothing).tolist() == SIGMA.tolist()
    assert np.isnan(cosine(np.zeros(2), np.ones(2)))
    with pytest.raises(ValueError, match="unknown normalize 'max'; there are none, frobenius"):
        normalised(SIGMA, "max", **nothing)


def test_matrices_are_what_the_optimizers_say() -> None:
    assert MATRICES == HIDDEN_TYPES


def test_spectra_are_of_hidden_matrices_at_the_last_step(runs: Any, tmp_path: Path) -> None:
    found = spectra(load([str(map_runs.write(runs, tmp_path))]))
    assert set(found["layer"]) == {"a", "b"}
    assert set(found["epoch"]) == {4.0}
    assert len(found) == 16 * 2 * 3
    assert set(found["gradient_norm"]) == {1.0}


def test_a_setting_is_judged_by_its_own_spectra(runs: Any, tmp_path: Path) -> None:
    root = map_runs.write(runs, tmp_path)
    found, known = spectra(load([str(root)])), records(load_runs(root), "test/accuracy")
    run = next(one for one in known if one["config.optimizer.alpha"] == 2.0)
    like = likeness(found, [str(run["id"])], run)
    assert like is not None
    sigma, damping = map_runs.SIGMA[:3], float(run["config.optimizer.damping"])
    slopes = slope(sigma, 2.0, damping)  # ||G|| is 1
    assert like.slope == pytest.approx(slopes.mean())
    assert slopes.min() <= like.low <= like.high <= slopes.max()
    moved = transferred(sigma, 2.0, damping)
    assert like.to_sgd == pytest.approx(cosine(moved, sigma))
    assert like.to_muon == pytest.approx(cosine(moved, np.ones(3)))
    assert like.between == pytest.approx(cosine(sigma, np.ones(3)))
    assert like.share == pytest.approx(0.3)
    assert (like.layers, like.directions, like.epochs) == (2, 3, (4.0,))


def test_norms_are_of_the_whole_gradient_and_the_shorter_side(runs: Any, tmp_path: Path) -> None:
    root = map_runs.write(runs, tmp_path)
    found, known = spectra(load([str(root)])), records(load_runs(root), "test/accuracy")
    run = {**known[0], "config.optimizer.normalize": "rms"}
    longer = found.assign(gradient_norm=3.0)  # of matrices 4 x 9: sigma is divided by 3 / sqrt(4)
    like = likeness(longer, [str(run["id"])], run)
    assert like is not None
    alpha, damping = (float(run[f"config.optimizer.{name}"]) for name in ("alpha", "damping"))
    slopes = slope(map_runs.SIGMA[:3] / 1.5, alpha, damping)
    assert like.slope == pytest.approx(slopes.mean())
    assert like.share == pytest.approx(0.3 / 9)


def test_what_cannot_be_judged_is_none(runs: Any, tmp_path: Path) -> None:
    root = map_runs.write(runs, tmp_path, norms=False)
    found, known = spectra(load([str(root)])), records(load_runs(root), "test/accuracy")
    run, ids = known[0], [str(known[0]["id"])]
    assert likeness(found, ids, run) is None  # frobenius, and ||G|| was not stored
    raw = {**run, "config.optimizer.normalize": "none"}
    like = likeness(found, ids, raw)
    assert like is not None
    assert np.isnan(like.share)
    assert likeness(found, [], raw) is None
    assert likeness(found, ids, {**raw, "config.optimizer._target_": "torch.optim.SGD"}) is None
    assert likeness(found, ids, {**raw, "config.optimizer.alpha": None}) is None
    nothing = Measured(*[load([str(root)]).directions.head(0)] * 3)
    assert spectra(nothing).empty
