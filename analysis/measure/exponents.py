"""From measured directions to one row of exponents a layer, with intervals and null models.

How much of the identity s = alpha * gamma is forced? alpha, gamma and s are slopes over the same
points. With t = ln k, the residuals eps of ln h on ln sigma and eta of ln sigma on t, exactly

    s_unsorted - alpha gamma = -cov(eps, t) / var t = -cov(eps, eta) / (gamma var t),

(the second, for eps is uncorrelated with ln sigma = c - gamma t + eta). So any h that follows a
power law of sigma with noise shows a small error, and the error of a layer is reported beside that
of h which have no other reason to obey the identity:

- noise: c sigma^alpha times log-normal noise of the same residual variance;
- permuted: c sigma^alpha times the layer's own residuals in another order;
- other: the h of another layer.

Each is measured as the layer itself: gamma over every sigma, alpha and s over those that its h > 0
leave, so that what dropping points does to the identity is in the null too. Errors are relative,
abs(s - alpha gamma) / s; s >= 0, its h being sorted. Array-likes [n] in, float64; the same random
draws every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
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


_NAN = float("nan")
BOOTSTRAP_DRAWS = 1000
SMALLEST = 5  # points


class SlopeInterval(NamedTuple):
    """The ends of a 95 % interval; NaN where there are too few points."""

    low: float
    high: float


def alpha_interval(sigma: ArrayLike, h: ArrayLike) -> SlopeInterval:
    """Interval of `fits.fit_alpha`; its points are independent where noise of h is."""
    s, values = np.asarray(sigma, dtype=np.float64), np.asarray(h, dtype=np.float64)
    keep = (s > 0) & (values > 0) & np.isfinite(s) & np.isfinite(values)
    return studentised(np.log(s[keep]), np.log(values[keep]))


def gamma_interval(sigma: ArrayLike) -> SlopeInterval:
    """Interval of `fits.fit_gamma`.

    Singular values are ordered, hence not independent: it shows how well the line fits, and is
    narrower than an interval over batches or seeds would be.
    """
    values = np.asarray(sigma, dtype=np.float64)
    keep = (values > 0) & np.isfinite(values)
    rank = np.arange(1, len(values) + 1)
    return studentised(-np.log(rank[keep]), np.log(values[keep]))


def s_interval(h: ArrayLike) -> SlopeInterval:
    """Interval of `fits.fit_s`; the caution of `gamma_interval` holds here too."""
    values = np.asarray(h, dtype=np.float64)
    return gamma_interval(np.sort(values[(values > 0) & np.isfinite(values)])[::-1])


def studentised(x: Array, y: Array, draws: int = BOOTSTRAP_DRAWS) -> SlopeInterval:
    """Return the 95 % bootstrap-t interval of the slope of y on x, by resampling residuals.

    Davison and Hinkley 1997, section 6.2: residuals over sqrt(1 - leverage) (their mean, which the
    intercept takes, has no part in the slope); quantiles of (slope* - slope) / se*, times the
    standard error. At 20 points it covers 93 to 95 %, where resampling the points themselves covers
    89 to 91 %.
    """
    n = len(x)
    if n < SMALLEST or np.ptp(x) == 0:
        return SlopeInterval(_NAN, _NAN)
    dx = x - x.mean()
    sxx = float(dx @ dx)
    slope, error, residual = _line(dx, y[None], sxx)
    free = np.sqrt((1 - 1 / n - dx**2 / sxx).clip(1e-12))  # 0, or less by rounding, at leverage 1
    noise = residual[0] / free
    if not np.ptp(noise) > 0:  # a line without residuals
        return SlopeInterval(float(slope[0]), float(slope[0]))
    pick = np.random.default_rng(0).integers(0, n, size=(draws, n))
    slopes, errors, _ = _line(dx, noise[pick], sxx)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = slopes / errors
    low, high = np.quantile(t[np.isfinite(t)], [0.025, 0.975])
    return SlopeInterval(float(slope[0] - high * error[0]), float(slope[0] - low * error[0]))


def _line(dx: Array, y: Array, sxx: float) -> tuple[Array, Array, Array]:
    """Return slopes, standard errors and residuals of the rows of y [draws, n] on dx [n]."""
    dy = y - y.mean(axis=1, keepdims=True)
    slope = dy @ dx / sxx
    residual = dy - slope[:, None] * dx
    return slope, np.sqrt((residual**2).sum(axis=1) / (len(dx) - 2) / sxx), residual


def alpha_by_quartile(sigma: ArrayLike, h: ArrayLike) -> tuple[float, float, float, float]:
    """Return alpha fitted on each quarter of the ranks k = 1..n, the leading quarter first.

    A quarter with fewer than three usable points gives NaN.
    """
    s, values = np.asarray(sigma, dtype=np.float64), np.asarray(h, dtype=np.float64)
    quarters = zip(np.array_split(s, 4), np.array_split(values, 4), strict=True)
    found = [fits.fit_alpha(left, right) for left, right in quarters]
    first, second, third, fourth = (f.exponent if f.n_valid >= 3 else _NAN for f in found)
    return first, second, third, fourth


RELIABLE_POINTS = 8
RELIABLE_R2 = 0.8
_IDENTITY = ("layer", "layer_type", "rows", "cols", "step", "epoch")


def exponents_table(curvature: pd.DataFrame) -> pd.DataFrame:
    """Fit alpha, gamma and s of every layer (Calvo 2026; conventions in `analysis.fits`).

    Directions with sigma = 0, beyond the numerical rank of the gradient, enter no fit.

    Args:
        curvature: one row a direction, with the columns layer, layer_type, rows, cols, k, sigma,
            h, step, epoch, of one epoch; layers and k in the order in which they were measured.

    Returns:
        One row a layer; docs/curvature.md lists the columns. Floats are NaN, and rank_model and
        zeta_met null, where nothing can be fitted. Unreliable layers (n_valid < 8 or R2 of alpha
        < 0.8) are marked, never dropped.
    """
    layers = [group for _, group in curvature.groupby("layer", sort=False)]
    ranked = [layer[layer["sigma"] > 0] for layer in layers]
    curvatures = [layer["h"].to_numpy() for layer in ranked]
    rows = []
    for index, layer in enumerate(layers):
        sigma, h = ranked[index]["sigma"].to_numpy(), curvatures[index]
        others = curvatures[:index] + curvatures[index + 1 :]
        rows.append(
            {
                **{name: layer[name].iloc[0] for name in _IDENTITY},
                **_exponents(sigma, h),
                "n_directions": len(layer),  # measured, those with sigma = 0 too
                "n_negative": int((h < 0).sum()),
                **_certainty(sigma, h),
                **_ranks(sigma, h),
                **_nulls(sigma, h, others),
            }
        )
    return pd.DataFrame(rows).astype({"zeta_met": "boolean"})


def _exponents(sigma: Array, h: Array) -> dict[str, Any]:
    found = fits.triangle(sigma, h)
    row: dict[str, Any] = {}
    for name, fit in (("alpha", found.alpha_fit), ("gamma", found.gamma_fit), ("s", found.s_fit)):
        row |= {name: fit.exponent, f"{name}_stderr": fit.stderr, f"{name}_r2": fit.r2}
    points, r2 = found.alpha_fit.n_valid, found.alpha_fit.r2
    return row | {
        "n_valid": points,
        "reliable": points >= RELIABLE_POINTS and r2 >= RELIABLE_R2,
        "predicted_s": found.predicted_s,
        "triangle_error": found.error,
        "triangle_relative_error": found.relative_error,
    }


def _certainty(sigma: Array, h: Array) -> dict[str, Any]:
    """Intervals, the leverage of the first point, and alpha by quarter of the ranks."""
    intervals = {
        "alpha": alpha_interval(sigma, h),
        "gamma": gamma_interval(sigma),
        "s": s_interval(h),
    }
    row = {f"{name}_{end}": value for name, interval in intervals.items()
           for end, value in zip(("low", "high"), interval, strict=True)}  # fmt: skip
    row["alpha_without_first"] = fits.fit_alpha(sigma[1:], h[1:]).exponent
    for name, values in (("gamma", sigma), ("s", np.sort(h[h > 0])[::-1])):
        rest = np.append(0.0, values[1:])  # a dropped value leaves the ranks as they were
        row[f"{name}_without_first"] = fits.fit_gamma(rest).exponent
    quarters = alpha_by_quartile(sigma, h)
    return row | {f"alpha_quarter{i}": value for i, value in enumerate(quarters, start=1)}


def _ranks(sigma: Array, h: Array) -> dict[str, Any]:
    """Rank models of sigma, effective ranks, and the zeta bound on that of h."""
    models, positive = fits.rank_models(sigma), h[h > 0]
    s, predicted = fits.fit_s(h).exponent, fits.triangle(sigma, h).predicted_s
    bound, effective = fits.zeta_bound(s), fits.participation_ratio(positive)
    bounded = bool(np.isfinite(bound) and np.isfinite(effective))
    return {
        "rank_model": fits.best_rank_model(sigma),
        **{f"bic_{name}": fit.bic for name, fit in models.items()},
        "pr_h": effective,
        "pr_sigma": fits.participation_ratio(sigma),
        "pr_sigma2": fits.participation_ratio(sigma**2),
        "pr_predicted": (
            fits.predicted_effective_rank(predicted, len(h)) if len(h) else float("nan")
        ),
        "zeta_bound": bound,
        "zeta_met": effective <= bound if bounded else None,
        "entropy_rank": fits.entropy_rank(h),
        "rank95": fits.quantile_rank(h, 0.95),
        "rank99": fits.quantile_rank(h, 0.99),
    }


def _nulls(sigma: Array, h: Array, others: list[Array]) -> dict[str, Any]:
    """The identity's relative error where nothing but a power law, or not even that, is behind."""
    return {
        "null_noise_error": _median(noise_errors(sigma, h)),
        "null_permuted_error": _median(permuted_errors(sigma, h)),
        "null_other_error": _median(other_errors(sigma, others)),
    }


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else float("nan")
