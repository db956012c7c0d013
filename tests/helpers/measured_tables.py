"""Small measured tables: real fits of drawn spectra, and run folders that hold them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.measure.exponents import exponents_table
from analysis.measure.files import write_table

K = 20
_FITTED: dict[bytes, pd.DataFrame] = {}  # many tests write the same tables


def directions(
    alphas: dict[str, float], *, noise: float = 0.05, epoch: float = 5.0, seed: int = 0
) -> pd.DataFrame:
    """Return directions of layers with h = sigma^alpha times noise; the last layer is the head."""
    rng = np.random.default_rng(seed)
    k = np.arange(1, K + 1)
    frames = []
    for i, (layer, alpha) in enumerate(alphas.items()):
        sigma = np.sort(k**-1.2 * np.exp(rng.normal(0, 0.1, K)))[::-1]
        last = i == len(alphas) - 1
        frames.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "layer_type": "head" if last else "conv",
                    "rows": 32,
                    "cols": 64,
                    "k": k,
                    "sigma": sigma,
                    "h": sigma**alpha * np.exp(rng.normal(0, noise, K)),
                    "engine": "sweep",
                    "step": int(10 * epoch),
                    "epoch": epoch,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def write_run(
    root: Path,
    name: str,
    tables: list[pd.DataFrame],
    *,
    model: str = "resnet18",
    dataset: str = "cifar10",
    optimizer: str = "adamw",
    state: str = "done",
    exponents: bool = True,
    seed: int = 0,
    accuracy: float = 0.9,
    width: int = 64,
) -> Path:
    """Write a run folder with curvature (and exponents) of ``tables``, one an epoch."""
    folder = root / name
    folder.mkdir(parents=True)
    names = {"model": model, "dataset": dataset, "optimizer": optimizer}
    config = {"id": name, "names": names, "seed": seed, "model": {"width": width}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "status.json").write_text(json.dumps({"state": state}))
    summary = {"test/accuracy": accuracy, "seconds_per_epoch": 2.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    if tables:
        write_table(pd.concat(tables, ignore_index=True), folder / "curvature.parquet", {})
    if tables and exponents:
        fitted = pd.concat([_fitted(table) for table in tables], ignore_index=True)
        write_table(fitted, folder / "exponents.parquet", {})
    return folder


def _fitted(table: pd.DataFrame) -> pd.DataFrame:
    key = pd.util.hash_pandas_object(table).to_numpy().tobytes()
    if key not in _FITTED:
        _FITTED[key] = exponents_table(table)
    return _FITTED[key]
