"""A made-up map of settings of Spectral Newton, with spectra that its runs measured."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import study_runs

from analysis.measure.files import write_table

ALPHAS, DAMPINGS, RATES, SEEDS = (1.0, 2.0), (0.1, 0.01), (0.02, 0.08), (0, 1)
SIGMA = np.array([0.5, 0.2, 0.1, 0.0])  # of each layer; the last is beyond the numerical rank
PLACE = ("digits", "convnet", "spectral_newton")


def config(runs: Any, setting: Mapping[str, Any], seed: int, name: str) -> Any:
    """Return the config of one run."""
    changes = {f"optimizer__{key}": value for key, value in setting.items()}
    changes["optimizer___target_"] = "optimizers.SpectralNewton"
    return runs.config("spectral_newton", seed, sweep=name, **changes)


def write(
    runs: Any, root: Path, *, name: str = "study_m", norms: bool = True, noise: float = 0.002
) -> Path:
    """Write the runs: accuracy 0.9, and 0.01 more for alpha 2, and for d 0.01, and for lr 0.08.

    Seed 1 has ``noise`` more.
    """
    for alpha, damping, rate, seed in product(ALPHAS, DAMPINGS, RATES, SEEDS):
        setting = {"alpha": alpha, "damping": damping, "normalize": "frobenius", "lr": rate}
        gain = (alpha == 2) + (damping == 0.01) + (rate == 0.08)
        one = config(runs, setting, seed, name)
        folder = study_runs.write(runs, root, one, 0.9 + 0.01 * gain + noise * seed)
        measured(folder, norms=norms)
    return root


def measured(folder: Path, *, norms: bool = True) -> None:
    """Write the tables of a measurement at epochs 0 and 4: two convolutions and a head."""
    rows, layers = [], []
    for epoch, layer in product((0.0, 4.0), ("a", "b", "head")):
        kind = "head" if layer == "head" else "conv"
        own = {"layer": layer, "layer_type": kind, "rows": 4, "cols": 9,
               "step": int(10 * epoch), "epoch": epoch}  # fmt: skip
        sigma = SIGMA if epoch else 100 * SIGMA
        rows += [{**own, "k": k, "sigma": s, "h": 1.0} for k, s in enumerate(sigma, start=1)]
        found = {"gradient_norm": 1.0, "gradient_schatten8": 0.5} if norms else {}
        fits = {"alpha": 2.0, "gamma": 1.0, "s": 2.0, "reliable": True}
        layers.append({**own, **fits, **found})
    write_table(pd.DataFrame(rows), folder / "curvature.parquet", {})
    write_table(pd.DataFrame(layers), folder / "exponents.parquet", {})
