"""Measure one network on one batch: spectrum, curvature and exponents of each weight layer.

Needs torch, pandas and `optimizers` alone, so that a training run can measure itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import pandas as pd
from torch import Tensor, nn

from analysis.directions import gradient_directions
from analysis.engines import Engine, choose, compute
from analysis.measure.exponents import exponents_table
from analysis.measure.weights import weights_table
from analysis.objective import Loss, Settings, cross_entropy
from optimizers.partition import label_parameters, weight_layers


class Measurement(NamedTuple):
    """What `measure` returns.

    ``directions`` has one row a direction: layer, layer_type, rows, cols (matrix shape m, n), k
    (from 1), sigma, h, engine, step, epoch. ``exponents`` has one row a layer: the columns of
    `analysis.measure.exponents.exponents_table` and of `analysis.measure.weights.weights_table`,
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
        engine: which of `analysis.engines.ENGINES` computes h; "auto" takes the fastest that is
            exact here.
        settings: dtype, microbatch, mode and device; see `analysis.objective.Settings`.
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
    types = _layer_types(model)
    frames = [
        pd.DataFrame(
            {
                "layer": name,
                "layer_type": types[name],
                "rows": directions[name].shape[0],
                "cols": directions[name].shape[1],
                "k": range(1, len(h[name]) + 1),
                "sigma": directions[name].sigma.cpu().numpy(),
                "h": h[name].numpy(),
                "engine": used,
                "step": step,
                "epoch": float(epoch),
            }
        )
        for name in names
    ]
    table = pd.concat(frames, ignore_index=True)
    exponents = exponents_table(table).merge(weights_table(model, names), on="layer", how="left")
    exponents["gradient_norm"] = [directions[layer].norm for layer in exponents["layer"]]
    exponents["gradient_schatten8"] = [directions[layer].schatten8 for layer in exponents["layer"]]
    return Measurement(table, exponents)


def _layer_types(model: nn.Module) -> dict[str, str]:
    """Return the type of each weight layer, also of those that share a weight."""
    labels = label_parameters(model)
    types = {id(weight): labels[name].layer_type for name, weight in model.named_parameters()}
    return {layer: types[id(weight)] for layer, weight in weight_layers(model).items()}
