"""From measured directions to one row of exponents a layer."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis import fits

RELIABLE_POINTS = 8
RELIABLE_R2 = 0.8


def exponents_table(curvature: pd.DataFrame) -> pd.DataFrame:
    """Fit alpha, gamma and s of every layer (Calvo 2026; conventions in `analysis.fits`).

    Directions with sigma = 0, beyond the numerical rank of the gradient, enter no fit.

    Args:
        curvature: one row a direction, with the columns layer, layer_type, rows, cols, k, sigma,
            h, step, epoch; layers and k in the order in which they were measured.

    Returns:
        One row a layer: layer, layer_type, rows, cols; alpha, gamma and s, each with _stderr and
        _r2; n_valid (directions with h > 0 and sigma > 0), reliable (n_valid >= 8 and R2 of alpha
        >= 0.8; unreliable layers are marked, never dropped), step, epoch; predicted_s =
        alpha * gamma, triangle_error, triangle_relative_error; n_directions;
        alpha_without_first (refitted without k = 1: the leverage of that point); rank_model
        (winner by BIC; null where no model can be fitted).
    """
    rows = [_row(group) for _, group in curvature.groupby("layer", sort=False)]
    return pd.DataFrame(rows)


def _row(layer: pd.DataFrame) -> dict[str, Any]:
    ranked = layer[layer["sigma"] > 0]
    sigma, h = ranked["sigma"].to_numpy(), ranked["h"].to_numpy()
    found = fits.triangle(sigma, h)
    row: dict[str, Any] = {
        name: layer[name].iloc[0] for name in ("layer", "layer_type", "rows", "cols")
    }
    for name, fit in (("alpha", found.alpha_fit), ("gamma", found.gamma_fit), ("s", found.s_fit)):
        row |= {name: fit.exponent, f"{name}_stderr": fit.stderr, f"{name}_r2": fit.r2}
    points, r2 = found.alpha_fit.n_valid, found.alpha_fit.r2
    return (
        row
        | {
            "n_valid": points,
            "reliable": points >= RELIABLE_POINTS and r2 >= RELIABLE_R2,
            "step": layer["step"].iloc[0],
            "epoch": layer["epoch"].iloc[0],
            "predicted_s": found.predicted_s,
            "triangle_error": found.error,
            "triangle_relative_error": found.relative_error,
            "n_directions": len(layer),  # measured, those with sigma = 0 too
            "alpha_without_first": fits.fit_alpha(sigma[1:], h[1:]).exponent,
            "rank_model": fits.best_rank_model(sigma),
        }
    )
