from __future__ import annotations

from pathlib import Path
from typing import Any

import map_runs
import numpy as np
import pytest

from analysis import transfer
from analysis.page.spectra import MATRICES, likeness, spectra
from analysis.run.measured import Measured, load
from analysis.runs import load_runs
from analysis.table.select import records
from optimizers.partition import HIDDEN_TYPES


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
    slopes = transfer.slope(sigma, 2.0, damping)  # ||G|| is 1
    assert like.slope == pytest.approx(slopes.mean())
    assert slopes.min() <= like.low <= like.high <= slopes.max()
    moved = transfer.transferred(sigma, 2.0, damping)
    assert like.to_sgd == pytest.approx(transfer.cosine(moved, sigma))
    assert like.to_muon == pytest.approx(transfer.cosine(moved, np.ones(3)))
    assert like.between == pytest.approx(transfer.cosine(sigma, np.ones(3)))
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
    slopes = transfer.slope(map_runs.SIGMA[:3] / 1.5, alpha, damping)
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
