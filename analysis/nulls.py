"""How much of the identity s = alpha * gamma is forced: the error it would have by itself.

alpha, gamma and s are slopes over the same points. With t = ln k, the residuals eps of ln h on
ln sigma and eta of ln sigma on t, exactly

    s_unsorted - alpha gamma = -cov(eps, t) / var t = -cov(eps, eta) / (gamma var t),

(the second, for eps is uncorrelated with ln sigma = c - gamma t + eta). So any h that follows a
power law of sigma with noise shows a small error, and the error of a layer is reported beside that
of h which have no other reason to obey the identity:

- noise: c sigma^alpha times log-normal noise of the same residual variance;
- permuted: c sigma^alpha times the layer's own residuals in another order;
- other: the h of another layer.

Each is measured as the layer itself: gamma over every sigma, alpha and s over those that its h > 0
leave, so that what dropping points does to the identity is in the null too. numpy only; the same
random draws every time. Errors are relative, abs(s - alpha gamma) / s; s >= 0, its h being sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis import fits

Array = NDArray[np.float64]
DRAWS = 200


def noise_errors(sigma: ArrayLike, h: ArrayLike, draws: int = DRAWS) -> Array:
    """Return the identity's relative error of ``draws`` curvatures that are a power law with noise.

    Gaussian in ln h, of variance RSS / (n - 2) about the layer's own fit. Shape [draws], or empty
    where no line can be fitted.
    """

    def redraw(residual: Array, rng: np.random.Generator) -> Array:
        scale = np.sqrt((residual**2).sum() / (len(residual) - 2))
        return rng.normal(0.0, scale, (draws, len(residual)))

    return _redrawn(sigma, h, redraw)


def permuted_errors(sigma: ArrayLike, h: ArrayLike, draws: int = DRAWS) -> Array:
    """Return the identity's relative error with the layer's own residuals of ln h in other orders.

    Shape [draws], or empty where no line can be fitted.
    """

    def redraw(residual: Array, rng: np.random.Generator) -> Array:
        return rng.permuted(np.broadcast_to(residual, (draws, len(residual))), axis=1)

    return _redrawn(sigma, h, redraw)


def other_errors(sigma: ArrayLike, others: Sequence[ArrayLike]) -> Array:
    """Return the identity's relative error with the h of each of the other layers.

    Of lists of different length the leading part is taken that both have; shape [len(others)] less
    those that allow no fit.
    """
    own = np.asarray(sigma, dtype=np.float64)
    found = []
    for other in others:
        h = np.asarray(other, dtype=np.float64)
        both = min(len(own), len(h))
        found.append(fits.triangle(own[:both], h[:both]).relative_error)
    return _finite(np.asarray(found, dtype=np.float64))


def unsorted_residual(sigma: ArrayLike, h: ArrayLike) -> float:
    """Return -cov(eps, t) / var t: what s of *unsorted* h exceeds alpha gamma by, exactly.

    Points with sigma <= 0 or h <= 0 are dropped, and the others ranked anew.
    """
    s, values = _usable(sigma, h)
    if len(s) < 3:
        return float("nan")
    t, eps = np.log(np.arange(1, len(s) + 1)), _residuals(s, values)
    dt = t - t.mean()
    return float(-(eps @ dt) / (dt @ dt))


def permutation_p_value(observed: float, null: ArrayLike) -> float:
    """Return the share of ``null`` at or above ``observed``, both counted in (Phipson, Smyth 2010).

    NaN where the null is empty.
    """
    values = np.asarray(null, dtype=np.float64)
    if not len(values):
        return float("nan")
    return float((1 + np.sum(values >= observed)) / (1 + len(values)))


def _redrawn(
    sigma: ArrayLike, h: ArrayLike, redraw: Callable[[Array, np.random.Generator], Array]
) -> Array:
    """Return the errors with each row of ``redraw(residuals)`` in place of the residuals."""
    s, values = _usable(sigma, h)
    if len(s) < 3 or np.ptp(s) == 0:
        return np.zeros(0)
    residual = _residuals(s, values)
    line = np.log(values) - residual
    gamma = fits.fit_gamma(sigma).exponent  # of every sigma, as the layer's own gamma is
    log_h = line + redraw(residual, np.random.default_rng(0))
    alpha = _slopes(np.log(s), log_h)
    descending = -np.sort(-log_h, axis=1)
    decay = -_slopes(np.log(np.arange(1, len(s) + 1)), descending)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _finite(np.abs((decay - alpha * gamma) / decay))


def _slopes(x: Array, y: Array) -> Array:
    """Return the slope of each row of y [draws, n] on x [n]."""
    dx = x - x.mean()
    slopes: Array = y @ dx / (dx @ dx)
    return slopes


def _usable(sigma: ArrayLike, h: ArrayLike) -> tuple[Array, Array]:
    s, values = np.asarray(sigma, dtype=np.float64), np.asarray(h, dtype=np.float64)
    keep = (s > 0) & (values > 0) & np.isfinite(s) & np.isfinite(values)
    return s[keep], values[keep]


def _residuals(sigma: Array, h: Array) -> Array:
    """Return what ln h lacks of its line on ln sigma."""
    fit = fits.fit_alpha(sigma, h)
    residual: Array = np.log(h) - fit.log_prefactor - fit.exponent * np.log(sigma)
    return residual


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]
