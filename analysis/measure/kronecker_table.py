"""The Kronecker side as tables: a row a direction, a row a layer, and how often factors match.

pandas and numpy; the definitions are in `analysis.kronecker`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import fits, nulls
from analysis.kronecker import KroneckerSide

PERMUTATIONS = 9999


class Match(NamedTuple):
    """How often the rank model of a factor's spectrum is that of the gradient's.

    Attributes:
        rate: share of the layers, NaN without layers.
        expected: mean rate if the gradients' models are dealt to the layers at random.
        p_value: share of such deals with at least this rate, the observed one counted in.
    """

    rate: float
    expected: float
    p_value: float


def direction_rows(curvature: pd.DataFrame, side: KroneckerSide, errors: str) -> pd.DataFrame:
    """Return one row a direction of one layer.

    ``curvature`` holds the layer's rows of curvature.parquet. Columns: layer, k, errors, sigma, h,
    delta and inputs (the factors along the direction), lambda_delta and lambda_a (their k-th
    eigenvalues), rho_delta and rho_a, phi = rho_delta rho_a, h_kron, chi = h / h_kron, sud, iad,
    step, epoch.
    """
    count = len(curvature)
    table = curvature[["layer", "k", "sigma", "h", "step", "epoch"]].reset_index(drop=True)
    delta, inputs = side.delta.numpy(), side.inputs.numpy()
    lambda_delta = side.delta_spectrum.numpy()[:count]
    lambda_a = side.input_spectrum.numpy()[:count]
    with np.errstate(divide="ignore", invalid="ignore"):
        rho_delta, rho_a = delta / lambda_delta, inputs / lambda_a
        h_kron = side.h_kron.numpy()
        return table.assign(
            errors=errors,
            delta=delta,
            inputs=inputs,
            lambda_delta=lambda_delta,
            lambda_a=lambda_a,
            rho_delta=rho_delta,
            rho_a=rho_a,
            phi=rho_delta * rho_a,
            h_kron=h_kron,
            chi=table["h"].to_numpy() / h_kron,
            sud=side.sud.numpy(),
            iad=side.iad.numpy(),
        )


def layer_row(rows: pd.DataFrame, side: KroneckerSide) -> dict[str, Any]:
    """Summarise one layer's `direction_rows` (directions with sigma > 0).

    beta, phi and chi_slope are the slopes of ln(lambda_delta lambda_a), ln phi and ln chi on
    ln sigma, so that alpha_kron = beta + phi, and alpha = alpha_kron + chi_slope where every h is
    positive. Medians of chi, SUD and IAD (the concentration ratio); the correlation of ln h_kron
    and ln sigma^2; effective ranks of the factors; the rank model of the gradient and of the
    factors' spectra, each over as many values as there are directions.
    """
    used = rows[rows["sigma"] > 0]
    sigma = used["sigma"].to_numpy()

    def slope(values: Any) -> float:
        return fits.fit_alpha(sigma, np.asarray(values)).exponent

    spectra = {"delta": side.delta_spectrum.numpy(), "input": side.input_spectrum.numpy()}
    eigenvalues = (used["lambda_delta"] * used["lambda_a"]).to_numpy()
    return {
        **{name: rows[name].iloc[0] for name in ("layer", "errors", "step", "epoch")},
        "positions": side.positions,
        "beta": slope(eigenvalues),
        "phi": slope(used["phi"]),
        "alpha_kron": slope(used["h_kron"]),
        "chi_slope": slope(used["chi"]),
        **{f"{name}_median": float(used[name].median()) for name in ("chi", "sud", "iad")},
        "identity_correlation": fits.log_correlation(used["h_kron"].to_numpy(), sigma**2),
        "sigma_model": fits.best_rank_model(sigma),
        **{f"{name}_rank": fits.participation_ratio(s) for name, s in spectra.items()},
        **{f"{name}_model": fits.best_rank_model(s[: len(sigma)]) for name, s in spectra.items()},
    }


def model_match(layers: pd.DataFrame, factor: str) -> Match:
    """Compare the rank models of a factor ("delta" or "input") with the gradients', layer by layer.

    ``layers`` holds one kind of errors and one epoch; layers without a model are left out.
    """
    pairs = layers[["sigma_model", f"{factor}_model"]].dropna()
    if pairs.empty:
        return Match(float("nan"), float("nan"), float("nan"))
    sigma, other = (pairs[name].to_numpy() for name in pairs)
    rate = float((sigma == other).mean())
    rng = np.random.default_rng(0)
    null = np.asarray([(rng.permutation(sigma) == other).mean() for _ in range(PERMUTATIONS)])
    return Match(rate, float(null.mean()), nulls.permutation_p_value(rate, null))
