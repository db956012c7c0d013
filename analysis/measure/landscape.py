"""How much the mean loss changes with one more sample: abs(L_{k+1}(w) - L_k(w)) against k.

L_k is the mean loss of the first k samples at fixed weights, here on a line of weights.

    L_{k+1} - L_k = (l_{k+1} - L_k) / (k + 1)

holds for any numbers l, so that the slope -1 on log-log axes is forced wherever the samples come in
no order: only the constant, the size of l - L, is a measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from analysis import fits
from analysis.curvature_core.objective import Objective, Settings, cross_entropy
from analysis.curvature_core.products import HessianProducts
from analysis.stats import NO_INTERVAL, Interval

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
        ValueError: as `analysis.curvature_core.objective.Objective`; both ends are the same; or
        samples that
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


PER_DECADE = 8
FIRST = 10  # k of the first window: before it a window holds too few samples


class Decay(NamedTuple):
    """The fitted abs(L_{k+1} - L_k) ~ k^-exponent, and (k + 1) times its mean, the constant."""

    exponent: float
    stderr: float
    r2: float
    constant: float


class Null(NamedTuple):
    """The exponents of the same losses in other orders: median and 95 % interval."""

    exponent: float
    interval: Interval


def differences(losses: ArrayLike) -> Array:
    """Return abs(L_{k+1} - L_k), k = 1 .. n - 1, of losses [n].

    Raises:
        ValueError: fewer than two losses, not one-dimensional, or not finite.
    """
    values = np.asarray(losses, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"needs the losses of 2 samples at least, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("a sample's loss is not finite")
    k = np.arange(1, len(values))
    mean = np.cumsum(values)[:-1] / k
    return np.abs(values[1:] - mean) / (k + 1)


def windows(count: int) -> Array:
    """Return the edges of windows of k, `PER_DECADE` a decade, from `FIRST` to ``count``.

    Raises:
        ValueError: too few samples for four windows.
    """
    if count < 4 * FIRST:
        raise ValueError(f"needs {4 * FIRST + 1} samples at least, got {count + 1}")
    number = max(4, int(np.log10(count / FIRST) * PER_DECADE))
    return np.unique(np.rint(np.geomspace(FIRST, count + 1, number + 1)))


def averaged(changes: Array) -> tuple[Array, Array, Array]:
    """Return the edges, centres (geometric) and mean changes of windows of k.

    Args:
        changes: abs(L_{k+1} - L_k) for k = 1 .. [n], as `differences` gives them.
    """
    edges = windows(len(changes))
    starts = edges[:-1].astype(np.int64) - 1
    lengths = np.diff(edges)
    sums = np.add.reduceat(changes, starts)
    logs = np.add.reduceat(np.log(np.arange(1, len(changes) + 1)), starts)
    return edges, np.exp(logs / lengths), sums / lengths


def decay(changes: Array) -> Decay:
    """Fit the window means: ordinary least squares on log-log axes, each window weighing the same.

    The constant is the mean of (k + 1) abs(L_{k+1} - L_k) over all k from `FIRST` on.
    """
    _, centres, means = averaged(changes)
    fit = fits.fit_alpha(centres, means)
    k = np.arange(1, len(changes) + 1)
    constant = float(((k + 1) * changes)[FIRST - 1 :].mean())
    return Decay(-fit.exponent, fit.stderr, fit.r2, constant)


def shuffled(losses: ArrayLike, draws: int = 200, seed: int = 0) -> tuple[Null, Array]:
    """Return the exponents' null, and the window means [draws, windows], of shuffled losses."""
    rng, values = np.random.default_rng(seed), np.asarray(losses, dtype=np.float64)
    exponents, means = [], []
    for _ in range(draws):
        changes = differences(rng.permutation(values))
        exponents.append(decay(changes).exponent)
        means.append(averaged(changes)[2])
    usable = np.array([exponent for exponent in exponents if np.isfinite(exponent)])
    if len(usable) == 0:
        return Null(float("nan"), NO_INTERVAL), np.array(means)
    low, middle, high = np.quantile(usable, [0.025, 0.5, 0.975])
    return Null(float(middle), Interval(float(low), float(high))), np.array(means)
