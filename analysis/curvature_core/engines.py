"""Exact directional curvature h_k of every layer, by whichever exact engine is fastest.

h_k = vec(u_k v_k^T)^T H vec(u_k v_k^T), H the exact Hessian of the mean loss in one layer's weight.
It is a Rayleigh quotient, not an eigenvalue, and it may be negative. All engines compute the same
numbers; none takes a finite difference.

| engine | valid | cost, in forward passes |
|---|---|---|
| sweep | softmax of logits [B, C] piecewise linear above each weight | about C, in all |
| tangent | the same, and logits [B, ..., C] | 1 to 2 a direction, from the layer up |
| double_backward | what autograd can differentiate twice | 1.7-4 a direction, from the layer up |
| forward_over_reverse | the same, but BatchNorm in train mode | 3 to 6 a direction, whole network |

The rule of engine="auto": where `analysis.curvature_core.piecewise_linear` finds no obstacle, sweep
if C - 1 is at most half the number of all directions, else tangent; where it finds one,
double_backward. An engine that is named is refused, with the reason, where it would be wrong.

Double backward is reverse mode over reverse mode. Forward over reverse, the cross-check, is the
derivative of the gradient along a direction, several directions at a time by vmap: the one order of
torch.func transforms that is right through layer_norm. A gradient of a forward product and nested
forward products are not (pytorch issues 196699 and 196700), and are used nowhere here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from analysis.curvature_core.directions import Directions
from analysis.curvature_core.objective import (
    Batch,
    Loss,
    Objective,
    Settings,
    gradients_of,
    matrix_shape,
)
from analysis.curvature_core.piecewise_linear import examine
from analysis.curvature_core.sweep import class_sweep, tangent

CHUNK = 5  # directions at a time: fewer, larger kernels; memory grows with it


def double_backward(
    objective: Objective, directions: Mapping[str, Directions], report: Callable[[], None]
) -> dict[str, Tensor]:
    """Return h[layer] [k] float64 on the CPU; ``report`` is called after each layer of each part.

    Each microbatch builds one graph of all gradients; the directions pass back through it, some at
    a time, restricted to one layer: each costs 2 to 4 forward passes from that layer up.

    Raises:
        ValueError: a function of the network that has no second derivative.
    """
    totals = {
        name: torch.zeros(len(directions[name]), dtype=torch.float64) for name in objective.weights
    }
    for index in range(objective.microbatches):
        for layer, h in _microbatch(objective, index, directions, report).items():
            totals[layer] += h
    return totals


def _microbatch(
    objective: Objective,
    index: int,
    directions: Mapping[str, Directions],
    report: Callable[[], None],
) -> dict[str, Tensor]:
    """Return one microbatch's share of every h; its graph is freed on return."""
    weights = objective.weights
    shares = {}
    with objective.loss(index) as loss:
        gradients = gradients_of(loss, list(weights.values()))
        for layer, gradient in zip(weights, gradients, strict=True):
            shares[layer] = _along(gradient, weights[layer], directions[layer])
            report()
    return shares


def _along(gradient: Tensor, weight: nn.Parameter, directions: Directions) -> Tensor:
    """Return d^T (d gradient / d weight) d along each direction d, [k] float64 on the CPU."""
    if not gradient.requires_grad:  # the gradient is a constant: no curvature
        return torch.zeros(len(directions), dtype=torch.float64)
    left, right = directions.left.to(weight.device), directions.right.to(weight.device)
    h = []
    for u, v in zip(torch.split(left.T, CHUNK), torch.split(right.T, CHUNK), strict=True):
        along = torch.einsum("km,kn->kmn", u, v).reshape(-1, *weight.shape).to(weight.dtype)
        products = _products(gradient, weight, along).flatten(2).double()
        h.append(torch.einsum("km,kmn,kn->k", u, products, v))
    return torch.cat(h).cpu()


def _products(gradient: Tensor, weight: nn.Parameter, along: Tensor) -> Tensor:
    """Return H d of directions ``along`` [k, ...], by one backward pass that carries them all."""

    def product(directions: Tensor, batched: bool) -> Tensor:
        (found,) = torch.autograd.grad(
            gradient, weight, directions,
            retain_graph=True, materialize_grads=True, is_grads_batched=batched,
        )  # fmt: skip
        return found

    try:
        return product(along, batched=True).expand_as(along)  # zeros are of one direction
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # a function of the network's own that vmap can't carry them through
        return torch.stack([product(direction, batched=False) for direction in along])


FORWARD_CHUNK = 4  # directions at a time; memory grows with it


def forward_over_reverse(
    objective: Objective, directions: Mapping[str, Directions], report: Callable[[], None]
) -> dict[str, Tensor]:
    """Return h[layer] [k] float64 on the CPU; ``report`` is called after each layer of each part.

    Raises:
        ValueError: BatchNorm in train mode, which writes its running statistics in every pass.
    """
    if objective.couples_samples:
        raise ValueError("BatchNorm in train mode writes its statistics under vmap")
    objective.model.requires_grad_(False)  # or a graph of all other weights would be kept
    totals = {
        name: torch.zeros(len(directions[name]), dtype=torch.float64) for name in objective.weights
    }
    for index in range(objective.microbatches):
        for name in objective.weights:
            totals[name] += torch.cat(
                list(_forward_microbatch(objective, index, name, directions[name]))
            )
            report()
    return totals


def _forward_microbatch(
    objective: Objective, index: int, layer: str, directions: Directions
) -> Iterator[Tensor]:
    """Give one microbatch's share of h, some directions at a time."""
    weight = objective.weights[layer]
    left, right = directions.left.to(weight.device), directions.right.to(weight.device)
    for u, v in zip(
        torch.split(left.T, FORWARD_CHUNK), torch.split(right.T, FORWARD_CHUNK), strict=True
    ):
        with objective.part(index) as (inputs, labels):  # anew: dropout has the same mask each time
            share = partial(_share, objective, layer, inputs, labels)
            yield _forward_along(share, weight, u, v).cpu()


def _share(
    objective: Objective, layer: str, inputs: Tensor, labels: Tensor, weight: Tensor
) -> Tensor:
    """Return a microbatch's share of the loss as a function of one layer's weight."""
    key = f"{layer}.weight" if layer else "weight"
    outputs = functional_call(objective.model, {key: weight}, (inputs,))
    return objective.share(outputs, labels)


def _forward_along(
    share: Callable[[Tensor], Tensor], weight: Tensor, left: Tensor, right: Tensor
) -> Tensor:
    """Return d^T H d of the directions u v^T, left [k, m] and right [k, n]."""

    def h(u: Tensor, v: Tensor) -> Tensor:
        direction = torch.outer(u, v).reshape(weight.shape).to(weight.dtype)
        product: Tensor = jvp(grad(share), (weight,), (direction,))[1]
        return u @ product.flatten(1).double() @ v

    along: Tensor = vmap(h, randomness="same")(left, right)
    return along


Engine: TypeAlias = Literal["sweep", "tangent", "double_backward", "forward_over_reverse"]
Report: TypeAlias = Callable[[], None]
ENGINES: tuple[Engine, ...] = ("sweep", "tangent", "double_backward", "forward_over_reverse")
# What a forward pass keeps is held this many times at most: its graph, the graph of its gradients,
# and by each direction on its way back through it.
_COPIES: dict[Engine, int] = {
    "sweep": 6,
    "tangent": 6,
    "double_backward": 6 + 2 * CHUNK,
    "forward_over_reverse": 6 * FORWARD_CHUNK,
}


class Choice(NamedTuple):
    """An engine, and in one line why it is the one."""

    engine: Engine
    reason: str


def curvature(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    layers: Iterable[str],
    directions: Mapping[str, Directions],
    *,
    engine: Engine | Literal["auto"] = "auto",
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Return h[layer][k] along each layer's directions, [k] float64 on the CPU.

    ``directions`` holds those of each layer, as `gradient_directions` gives them; ``progress`` is
    called with (done, total) as parts are done; the other arguments are those of
    `analysis.curvature_core.objective.Objective`.

    Raises:
        ValueError: a layer without directions, directions of another shape than the layer's
            matrix, a named engine that does not apply, or what `Objective` refuses.
    """
    names, how = list(layers), settings or Settings()
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"engine must be 'auto' or one of {', '.join(ENGINES)}, got {engine!r}")
    for layer in names:
        _check(layer, matrix_shape(model, layer), directions)
    wanted = {layer: directions[layer] for layer in names}
    chosen = choose(model, loss, batch, names, wanted, settings=how, engine=engine).engine
    return compute(chosen, model, loss, batch, wanted, settings=how, progress=progress)


def compute(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    directions: Mapping[str, Directions],
    *,
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Return h[layer][k] as `curvature` does, by the engine that `choose` found to apply here."""
    objective = Objective(model, loss, batch, directions, settings, copies=_COPIES[engine])
    parts = 1 if engine == "sweep" else len(directions)
    report = _counter(objective.microbatches * parts, progress)
    engines: dict[Engine, Callable[..., dict[str, Tensor]]] = {
        "sweep": class_sweep,
        "tangent": tangent,
        "double_backward": double_backward,
        "forward_over_reverse": forward_over_reverse,
    }
    return engines[engine](objective, directions, report)


def choose(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    layers: list[str],
    directions: Mapping[str, Directions],
    *,
    settings: Settings,
    engine: Engine | Literal["auto"] = "auto",
) -> Choice:
    """Return the engine by the rule above; ``engine`` is only checked where it names one.

    Raises:
        ValueError: the engine that was named does not apply here.
    """
    if engine in ("double_backward", "forward_over_reverse"):
        return Choice(engine, "it was asked for")
    reason, logits = examine(model, loss, batch, layers, settings)
    if reason is None and engine == "sweep" and len(logits) != 1:
        reason = f"it needs logits [B, C], not [B, {', '.join(map(str, logits))}]"
    if engine != "auto":
        if reason is not None:
            raise ValueError(f"engine '{engine}' does not apply: {reason}; use double_backward")
        return Choice(engine, "it was asked for")
    if reason is not None:
        return Choice("double_backward", reason)
    classes, along = logits[-1], sum(len(directions[layer]) for layer in layers)
    if len(logits) == 1 and classes - 1 <= along / 2:
        return Choice("sweep", f"piecewise linear, {classes} classes, {along} directions")
    return Choice("tangent", f"piecewise linear, logits {logits}, {along} directions")


def _counter(total: int, progress: Callable[[int, int], None] | None) -> Report:
    done = itertools.count(1)

    def report() -> None:
        if progress is not None:
            progress(next(done), total)

    return report


def _check(layer: str, shape: tuple[int, ...], directions: Mapping[str, Directions]) -> None:
    if layer not in directions:
        raise ValueError(f"layer '{layer}' has no directions")
    if directions[layer].shape != shape:
        raise ValueError(
            f"layer '{layer}': directions of a {directions[layer].shape} matrix do not fit its "
            f"weight, which is {shape}"
        )
