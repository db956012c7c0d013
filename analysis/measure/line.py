"""Losses of single samples along a line of weights, and the curvature of their mean on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.hessian.products import HessianProducts
from analysis.objective import Objective, Settings, cross_entropy

Array = NDArray[np.float64]


class Point(NamedTuple):
    """One point of the line: its place and distance from ``trained``, and the samples' losses."""

    place: float
    distance: float
    losses: Array


class Line(NamedTuple):
    """What was measured: the points, the distance of both ends, and d^T H d at ``trained``."""

    points: list[Point]
    length: float
    curvature: float


def measure_line(
    trained: nn.Module,
    start: nn.Module,
    batch: tuple[Tensor, Tensor],
    places: Sequence[float],
    settings: Settings | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Line:
    """Measure every sample's loss at w* + t (w_0 - w*), t in ``places``.

    Args:
        trained: the network with weights w*.
        start: the same network with weights w_0; of both, all parameters move together, while
            buffers (BatchNorm's statistics) stay those of ``trained``.
        batch: (inputs, labels).
        places: t; 0 is trained, 1 the start.
        settings: dtype, microbatch, mode and device.
        progress: called with (done, total).

    Raises:
        ValueError: as `analysis.objective.Objective`; both ends are the same; or samples that
            depend on each other (BatchNorm in train mode).
    """
    objective = Objective(trained, cross_entropy, batch, [], settings)
    if objective.couples_samples:
        raise ValueError("mode='train' with BatchNorm leaves no sample a loss of its own")
    model = objective.model
    end = _joined(trained).to(objective.device)
    step = _joined(start).to(objective.device) - end
    length = float(step.norm())
    if length == 0:
        raise ValueError("the trained weights are those of the start: there is no line")
    points = []
    for done, place in enumerate(places):
        with torch.no_grad():
            nn.utils.vector_to_parameters(
                (end + place * step).to(objective.settings.dtype), model.parameters()
            )
        points.append(Point(place, abs(place) * length, sample_losses(objective)))
        if progress is not None:
            progress(done + 1, len(places) + 1)
    products = HessianProducts(trained, cross_entropy, batch, settings)
    direction = (step / length).to(products.dtype)
    curvature = float(direction.double() @ products(direction[None])[0].double())
    return Line(points, length, curvature)


def sample_losses(objective: Objective) -> Array:
    """Return the cross-entropy of each sample [B], float64; of tokens, the mean of the sample."""
    found = []
    for index in range(objective.microbatches):
        with objective.part(index) as (inputs, labels), torch.no_grad():
            logits = objective.model(inputs).double()
            each = nn.functional.cross_entropy(
                logits.flatten(0, -2), labels.flatten(), reduction="none"
            )
            found.append(each.reshape(len(labels), -1).mean(dim=1).cpu().numpy())
    return np.concatenate(found)


def _joined(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])
