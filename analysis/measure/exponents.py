"""From measured directions to one row of exponents a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import fits, nulls
from analysis.measure import slopes

Array = NDArray[np.float64]

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
        "alpha": slopes.alpha_interval(sigma, h),
        "gamma": slopes.gamma_interval(sigma),
        "s": slopes.s_interval(h),
    }
    row = {f"{name}_{end}": value for name, interval in intervals.items()
           for end, value in zip(("low", "high"), interval, strict=True)}  # fmt: skip
    row["alpha_without_first"] = fits.fit_alpha(sigma[1:], h[1:]).exponent
    for name, values in (("gamma", sigma), ("s", np.sort(h[h > 0])[::-1])):
        rest = np.append(0.0, values[1:])  # a dropped value leaves the ranks as they were
        row[f"{name}_without_first"] = fits.fit_gamma(rest).exponent
    quarters = slopes.alpha_by_quartile(sigma, h)
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
        "null_noise_error": _median(nulls.noise_errors(sigma, h)),
        "null_permuted_error": _median(nulls.permuted_errors(sigma, h)),
        "null_other_error": _median(nulls.other_errors(sigma, others)),
    }


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else float("nan")
