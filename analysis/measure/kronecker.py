"""Measure the Kronecker side of a network whose curvature was measured.

Tables with a row a direction and a row a layer, and how often the factors' rank models match. The
definitions are in `analysis.curvature_core.kronecker`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
from torch import Tensor, nn

from analysis import fits
from analysis.curvature_core.directions import Directions, gradient_directions
from analysis.curvature_core.kronecker import Errors, KroneckerSide, kronecker_sides
from analysis.curvature_core.objective import Loss, Settings, cross_entropy
from analysis.measure import exponents
from optimizers.kronecker import supports

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
    return Match(rate, float(null.mean()), exponents.permutation_p_value(rate, null))


class KroneckerMeasurement(NamedTuple):
    """What `measure_kronecker` returns.

    ``directions`` has one row a layer, direction and kind of errors, ``layers`` one a layer and
    kind of errors; see `analysis.measure.kronecker`. ``notes`` says what could not be
    measured.
    """

    directions: pd.DataFrame
    layers: pd.DataFrame
    notes: list[str]


def measure_kronecker(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    curvature: pd.DataFrame,
    *,
    loss: Loss = cross_entropy,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> KroneckerMeasurement:
    """Measure factors, ratios and slopes for class-wise and for label errors.

    Args:
        model: the network, left untouched.
        inputs: [B, ...], the batch on which ``curvature`` was measured.
        labels: [B] or [B, T].
        curvature: rows of curvature.parquet of these weights; its h is compared with.
        loss: as in `analysis.measure.network.measure`.
        settings: as there.
        progress: called with (done, total).

    Raises:
        ValueError: no kind of errors can be measured, or sigma^2 exceeds its bound.
    """
    batch = (inputs, labels)
    rows = {str(name): layer for name, layer in curvature.groupby("layer", sort=False)}
    k = max(len(layer) for layer in rows.values())
    directions = gradient_directions(model, loss, batch, rows, k, settings=settings)
    _same(directions, rows)
    tables, summaries = [], []
    without = [name for name in rows if not supports(model.get_submodule(name))]
    notes = [f"no Kronecker factors of layer '{name}': {_kind(model, name)}" for name in without]
    for index, errors in enumerate(get_args(Errors)):
        try:
            sides = kronecker_sides(
                model, loss, batch, directions, errors=errors, settings=settings
            )
        except ValueError as error:
            if errors == "label":  # always possible: what is wrong is wrong
                raise
            notes.append(f"no {errors} errors: {error}")
            continue
        for name, side in sides.items():
            table = direction_rows(rows[name], side, errors)
            tables.append(table)
            summaries.append(layer_row(table, side))
        if progress is not None:
            progress(index + 1, len(get_args(Errors)))
    if not tables:
        raise ValueError("; ".join(notes) or "the loss sees no layer")
    return KroneckerMeasurement(
        pd.concat(tables, ignore_index=True), pd.DataFrame(summaries), notes
    )


def _kind(model: nn.Module, layer: str) -> str:
    module = model.get_submodule(layer)
    grouped = f" of {module.groups} groups" if getattr(module, "groups", 1) != 1 else ""
    return f"a {type(module).__name__}{grouped} is neither a Linear nor an ungrouped convolution"


def _same(directions: dict[str, Directions], rows: dict[str, pd.DataFrame]) -> None:
    """Refuse curvature that belongs to other weights or another batch."""
    for name, found in directions.items():
        sigma, stored = found.sigma.cpu(), rows[name]["sigma"].to_numpy()
        if len(sigma) != len(stored) or abs(sigma.numpy() - stored).max() > 1e-6 * stored.max():
            raise ValueError(f"layer '{name}': its curvature is of other weights or another batch")
