"""Measure one network on one batch: spectrum, curvature and exponents of each weight layer.

The spectra of the weight matrices themselves are measured besides (`weights_table`); their tail has
two definitions that are not the same thing.

Needs torch, pandas and `optimizers` alone, so that a training run can measure itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from analysis import fits
from analysis.curvature_core.directions import Directions, gradient_directions
from analysis.curvature_core.engines import Engine, choose, compute
from analysis.curvature_core.objective import Loss, Settings, cross_entropy, weight_of
from analysis.measure.exponents import exponents_table
from optimizers.partition import label_parameters, weight_layers

_NAN = float("nan")
SMALLEST_TAIL = 10


class TailFit(NamedTuple):
    """A density p(x) ~ x^-exponent above xmin.

    Attributes:
        exponent: maximum likelihood (Hill); NaN where there are too few values.
        xmin: where the tail begins: the value that makes ``distance`` smallest.
        n_tail: how many values are in the tail.
        distance: Kolmogorov-Smirnov distance of the tail to its fit, the share of values *below*
            each one being its empirical distribution, as in `powerlaw`.
        stderr: (exponent - 1) / sqrt(n_tail).
    """

    exponent: float
    xmin: float
    n_tail: int
    distance: float
    stderr: float


def clauset(values: ArrayLike) -> TailFit:
    """Fit a power-law tail to positive values (Clauset, Shalizi and Newman 2009, continuous case).

    Each value with at least 10 values at or above it is tried as xmin. Agrees with the package
    `powerlaw`, which takes minutes for the layers of one network where this takes milliseconds.
    """
    given = np.asarray(values, dtype=np.float64)
    x = np.sort(given[(given > 0) & np.isfinite(given)])
    if len(x) < SMALLEST_TAIL or x[0] == x[-1]:
        return TailFit(_NAN, _NAN, 0, _NAN, _NAN)
    log_x = np.log(x)
    best = TailFit(_NAN, _NAN, 0, float("inf"), _NAN)
    for start in range(len(x) - SMALLEST_TAIL + 1):
        if start and x[start] == x[start - 1]:
            continue  # the same xmin, with a part of its values
        tail, n = log_x[start:] - log_x[start], len(x) - start
        if tail[-1] == 0:
            break
        slope = n / float(tail.sum())  # exponent - 1
        fitted = -np.expm1(-slope * tail)
        empirical = np.arange(n) / n
        distance = float(np.abs(fitted - empirical).max())
        if distance < best.distance:
            best = TailFit(1 + slope, float(x[start]), n, distance, slope / float(np.sqrt(n)))
    return best


@torch.no_grad()
def weights_table(model: nn.Module, layers: Sequence[str]) -> pd.DataFrame:
    """Fit the spectrum of each layer's weight matrix W [m, n], one row a layer.

    Of the squared singular values lambda_k of W: weight_gamma, the decay of lambda_k with the rank
    k (with _stderr, _r2), and weight_tail, the exponent of their density (Clauset et al. 2009, with
    _stderr, _xmin, _n). For lambda_k = c k^-g the two are related by weight_tail = 1 + 1/g; they
    are different numbers, and the preprint's alpha_weight is used of either. Also weight_pr, their
    participation ratio, and weight_norm, the Frobenius norm. Computed in float64.
    """
    rows = []
    for layer in layers:
        matrix = weight_of(model, layer).double().flatten(1)
        values = torch.linalg.svdvals(matrix).square().cpu().numpy()
        resolved = values[values > 1e-20 * values.max()] if values.size else values
        decay, tail = fits.fit_gamma(resolved), clauset(resolved)
        rows.append(
            {
                "layer": layer,
                "weight_gamma": decay.exponent,
                "weight_gamma_stderr": decay.stderr,
                "weight_gamma_r2": decay.r2,
                "weight_tail": tail.exponent,
                "weight_tail_stderr": tail.stderr,
                "weight_tail_xmin": tail.xmin,
                "weight_tail_n": tail.n_tail,
                "weight_pr": fits.participation_ratio(resolved),
                "weight_norm": float(np.sqrt(values.sum())),
            }
        )
    return pd.DataFrame(rows)


class Measurement(NamedTuple):
    """What `measure` returns.

    ``directions`` has one row a direction: layer, layer_type, rows, cols (matrix shape m, n), k
    (from 1), sigma, h, engine, step, epoch. ``exponents`` has one row a layer: the columns of
    `analysis.measure.exponents.exponents_table` and of `analysis.measure.network.weights_table`,
    and the norms of the whole gradient, gradient_norm and gradient_schatten8.
    """

    directions: pd.DataFrame
    exponents: pd.DataFrame


def measure(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    k: int = 20,
    *,
    loss: Loss = cross_entropy,
    layers: Sequence[str] | None = None,
    engine: Engine | Literal["auto"] = "auto",
    settings: Settings | None = None,
    step: int = 0,
    epoch: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measure sigma_k, h_k and the exponents of each weight layer on one batch (Calvo 2026).

    The network is left untouched: parameters, gradients, flags, buffers and random state.

    Args:
        model: the network; its Linear and Conv weights are measured, each as an m x n matrix.
        inputs: [B, ...]; floating inputs are converted to the dtype of ``settings``.
        labels: [B] int64, or what ``loss`` takes.
        k: directions a layer, at most min(m, n) of it.
        loss: (outputs, labels) -> scalar mean over the batch.
        layers: module names; None means all weight layers.
        engine: which of `curvature_core.engines.ENGINES` computes h; "auto" takes the fastest that
            is exact here.
        settings: dtype, microbatch, mode and device; see `curvature_core.objective.Settings`.
        step: the training step of these weights, written in both tables.
        epoch: the training epoch of these weights, written in both tables.
        progress: called with (done, total) while curvature is measured.

    Raises:
        ValueError: k < 1, no layer to measure, a gradient that is not finite, an unusable batch, an
            engine that would be wrong here.
    """
    names = list(weight_layers(model)) if layers is None else list(layers)
    if not names:
        raise ValueError("there is no Linear or Conv weight to measure")
    batch = (inputs, labels)
    directions = gradient_directions(model, loss, batch, names, k, settings=settings)
    how = settings or Settings()
    used = choose(model, loss, batch, names, directions, settings=how, engine=engine).engine
    h = compute(used, model, loss, batch, directions, settings=how, progress=progress)
    table = _directions_table(model, {name: directions[name] for name in names}, h)
    table["engine"], table["step"], table["epoch"] = used, step, float(epoch)
    exponents = exponents_table(table).merge(weights_table(model, names), on="layer", how="left")
    exponents["gradient_norm"] = [directions[layer].norm for layer in exponents["layer"]]
    exponents["gradient_schatten8"] = [directions[layer].schatten8 for layer in exponents["layer"]]
    return Measurement(table, exponents)


def _directions_table(
    model: nn.Module, directions: Mapping[str, Directions], h: Mapping[str, Tensor]
) -> pd.DataFrame:
    types = _layer_types(model)
    frames = [
        pd.DataFrame(
            {
                "layer": name,
                "layer_type": types[name],
                "rows": found.shape[0],
                "cols": found.shape[1],
                "k": range(1, len(h[name]) + 1),
                "sigma": found.sigma.cpu().numpy(),
                "h": h[name].numpy(),
            }
        )
        for name, found in directions.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _layer_types(model: nn.Module) -> dict[str, str]:
    """Return the type of each weight layer, also of those that share a weight."""
    labels = label_parameters(model)
    types = {id(weight): labels[name].layer_type for name, weight in model.named_parameters()}
    return {layer: types[id(weight)] for layer, weight in weight_layers(model).items()}
