"""What measured spectra say of a setting of Spectral Newton: whose step its own is like.

sigma -> sigma / (sigma^alpha + d). The optimizer itself is
`optimizers.math.transfer.spectral_transfer`; here are its singular values alone, in numpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.run.measured import Measured, last_epochs
from analysis.stats import mean
from analysis.table.model import Run

Array = NDArray[np.float64]

# The types of layers whose weights optimizers treat as matrices; a test holds them to
# optimizers.partition, which needs torch.
MATRICES = ("conv", "attention_qkv", "attention_output", "mlp_up", "mlp_down", "linear")
_OWN = "config.optimizer."


@dataclass(frozen=True)
class Likeness:
    """One setting on the spectra of its own runs' gradients, at their last measured step.

    ``slope`` is the mean of d ln T / d ln sigma over all measured directions, ``low`` and ``high``
    their 10 and 90 % quantiles. ``to_sgd`` and ``to_muon`` are cosines of T(sigma) with sigma and
    with ones, ``between`` that of sigma with ones, means over layers. ``share`` is how much of
    ||G||^2 the measured directions hold, the mean over layers; NaN where it was not stored.
    """

    slope: float
    low: float
    high: float
    to_sgd: float
    to_muon: float
    between: float
    share: float
    layers: int
    directions: int  # the most of any layer
    epochs: tuple[float, ...]


def spectra(measured: Measured) -> pd.DataFrame:
    """Return a row a direction of the hidden matrices at each run's last measured step.

    Columns: run, layer, rows, cols, k, sigma, epoch, gradient_norm, gradient_schatten8 (NaN where
    they were not stored). Directions beyond the gradient's numerical rank are left out.
    """
    if measured.directions.empty:
        return pd.DataFrame(columns=["run"])
    rows = last_epochs(measured.directions)
    rows = rows[rows["layer_type"].isin(MATRICES) & (rows["sigma"] > 0)]
    keys, norms = ["run", "layer", "step"], ["gradient_norm", "gradient_schatten8"]
    layers = measured.layers.reindex(columns=[*keys, *norms])
    columns = [*keys, "rows", "cols", "k", "sigma", "epoch"]
    return rows[columns].merge(layers, on=keys, how="left").sort_values([*keys, "k"])


def likeness(directions: pd.DataFrame, runs: Sequence[str], run: Run) -> Likeness | None:
    """Return what one setting does to the spectra of its runs.

    Args:
        directions: as `spectra` returns them.
        runs: the ids of its runs.
        run: one of them, for its settings.

    Returns:
        None where it is no Spectral Newton with one alpha for all layers, or nothing was measured
        that tells how it scales.
    """
    setting = _setting(run)
    own = directions[directions["run"].isin(runs)]
    if setting is None or own.empty:
        return None
    alpha, damping, normalize = setting
    slopes, cosines, shares = [], [], []
    for _, layer in own.groupby(["run", "layer"], sort=True):
        first, raw = layer.iloc[0], layer["sigma"].to_numpy(dtype=np.float64)
        norm = float(first["gradient_norm"])
        sigma = normalised(
            raw, normalize, norm=norm, schatten8=float(first["gradient_schatten8"]),
            size=int(min(first["rows"], first["cols"])),
        )  # fmt: skip
        if not np.isfinite(sigma).all():
            continue
        moved, ones = transferred(sigma, alpha, damping), np.ones_like(sigma)
        pairs = ((moved, sigma), (moved, ones), (sigma, ones))
        slopes.append(slope(sigma, alpha, damping))
        cosines.append([cosine(a, b) for a, b in pairs])
        shares.append(float(np.sum(raw**2)) / norm**2 if norm > 0 else math.nan)
    if not slopes:
        return None
    each = np.concatenate(slopes)
    low, high = np.quantile(each, [0.1, 0.9])
    to_sgd, to_muon, between = (mean(column) for column in zip(*cosines, strict=True))
    return Likeness(
        mean(each), float(low), float(high), to_sgd, to_muon, between, _mean(shares),
        layers=own["layer"].nunique(),
        directions=int(own["k"].max()),
        epochs=tuple(sorted(set(own["epoch"]))),
    )  # fmt: skip


def _setting(run: Run) -> tuple[float, float, str] | None:
    """Return alpha, damping and normalize of a run of Spectral Newton."""
    if not str(run.get(f"{_OWN}_target_")).endswith("SpectralNewton"):
        return None
    alpha, damping = run.get(f"{_OWN}alpha"), run.get(f"{_OWN}damping")
    normalize = run.get(f"{_OWN}normalize")
    if not isinstance(alpha, int | float) or not isinstance(damping, int | float):
        return None
    return float(alpha), float(damping), str(normalize)


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return mean(known) if known else math.nan


def normalised(sigma: Array, normalize: str, *, norm: float, schatten8: float, size: int) -> Array:
    """Return sigma [k] as the optimizer scales it before its transfer.

    Args:
        sigma: the largest singular values of one matrix, descending, >= 0.
        normalize: none, frobenius, rms, spectral or schatten8.
        norm: Frobenius norm of the whole matrix, of all its singular values.
        schatten8: (sum of all sigma^8)^(1/8).
        size: min(m, n) of the matrix.

    Returns:
        [k]; NaN where what it is divided by is not known, or 0.

    Raises:
        ValueError: an unknown ``normalize``.
    """
    divisors = {
        "none": 1.0,
        "frobenius": norm,
        "rms": norm / math.sqrt(size),
        "spectral": float(sigma[0]) if len(sigma) else math.nan,
        "schatten8": schatten8,
    }
    if normalize not in divisors:
        raise ValueError(f"unknown normalize {normalize!r}; there are {', '.join(divisors)}")
    divisor = divisors[normalize]
    return sigma / (divisor if divisor > 0 else math.nan)


def transferred(sigma: Array, alpha: float, damping: float) -> Array:
    """Return T(sigma) [k] of normalised ``sigma`` [k]."""
    moved: Array = sigma / (sigma**alpha + damping)
    return moved


def slope(sigma: Array, alpha: float, damping: float) -> Array:
    """Return d ln T / d ln sigma [k] = 1 - alpha sigma^alpha / (sigma^alpha + d).

    It falls from 1 at sigma = 0 (ratios stay: a multiple of SGD's step) to 1 - alpha: 0 is Muon's
    (all equal), and below 0 smaller singular values come out larger than large ones.
    """
    power = sigma**alpha
    slopes: Array = 1 - alpha * power / (power + damping)
    return slopes


def cosine(a: Array, b: Array) -> float:
    """Return the cosine between two spectra [k] in the same directions; NaN where one is 0."""
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else math.nan
