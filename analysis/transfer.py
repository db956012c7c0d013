"""What Spectral Newton does to a spectrum: sigma -> sigma / (sigma^alpha + d), and how like whom.

The optimizer itself is `optimizers.math.transfer.spectral_transfer`; here are its singular
values alone, in numpy, for spectra that were measured before.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
    found: Array = 1 - alpha * power / (power + damping)
    return found


def cosine(a: Array, b: Array) -> float:
    """Return the cosine between two spectra [k] in the same directions; NaN where one is 0."""
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else math.nan
